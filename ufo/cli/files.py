"""Which image files a command works on and where its pictures and results go.

Everything is checked before the first image is touched: nothing overwrites an input or itself.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ufo.cli import CommandError
from ufo.data.image_files import (
    CONTAINERS,
    IMAGE_SUFFIXES,
    PICTURE_SUFFIXES,
    VIDEO_SUFFIXES,
    image_id,
    images_in,
    is_video,
)
from ufo.data.json_lines import is_jsonl
from ufo.files import write_json, write_lines
from ufo.ops.nearest import beside

ENDING = re.compile(r"\.[A-Za-z]\w*")
"""Of a file; folders are called `run_1.5`, too."""


@dataclass
class Outputs:
    """Where things are written; what is empty is not wanted."""

    pictures: dict[Path, Path] = field(default_factory=dict)  # image -> its picture
    video: Path | None = None  # of the only input, a video
    json: Path | None = None


def find_images(inputs: Sequence[Path]) -> list[Path]:
    """The files given, and the images of the folders given (by suffix, sorted), each file once; or one video.

    Raises CommandError for what does not exist, DataError for folders without images.
    """
    paths: dict[Path, Path] = {}  # by resolved path
    for given in inputs:
        if given.is_dir():
            inside = images_in(given)
        elif given.exists():
            inside = [given]
        else:
            raise CommandError(f"there is no file or folder {given}{beside(given)}")
        for path in inside:
            paths.setdefault(path.resolve(), path)
    found = list(paths.values())
    videos = [path for path in found if is_video(path)]
    if videos and len(found) > 1:
        raise CommandError(f"{videos[0]} is a video; give one video, or any number of images")
    return found


def plan_outputs(
    given: Sequence[Path], paths: Sequence[Path], json: Path | None, out: Path | None
) -> Outputs:
    """Where everything goes; folders that are missing are made now.

    Args:
        given: the files and folders as the user named them.
        paths: the images found in them.
        json: the file of the results.
        out: the picture of the only image, or a folder of pictures: one that is there, or a name without an
            ending.

    Raises CommandError where results would overwrite each other or an image, or have no place.
    """
    outputs = Outputs(json=json)
    if json:
        if json.is_dir():
            raise CommandError(f"--json {json} is a folder; give the name of a file")
        _require_distinct(paths, "image_id in the results", image_id)
    if out and is_video(paths[0]):
        outputs.video = _plan_video(out)
    elif out:
        outputs.pictures = _plan_pictures(out, given, paths)
    written = [*outputs.pictures.values(), *filter(None, [json, outputs.video])]
    images = {path.resolve() for path in paths}
    for path in written:
        if path.resolve() in images:
            raise CommandError(f"{path} is one of the images to work on; write somewhere else")
        path.parent.mkdir(parents=True, exist_ok=True)
    return outputs


def _plan_video(out: Path) -> Path:
    if out.suffix.lower() not in CONTAINERS or out.is_dir():
        raise CommandError(
            f"--out {out}: a video is drawn into a video; give a file that ends with {', '.join(CONTAINERS)}"
        )
    return out


def _plan_pictures(out: Path, given: Sequence[Path], paths: Sequence[Path]) -> dict[Path, Path]:
    if out.suffix.lower() in VIDEO_SUFFIXES and not out.is_dir():
        raise CommandError(f"--out {out} is a video, and the inputs are images; give a folder")
    is_file = out.suffix.lower() in IMAGE_SUFFIXES and not out.is_dir()
    if is_file and out.suffix.lower() not in PICTURE_SUFFIXES:
        raise CommandError(f"--out {out}: pictures are {', '.join(PICTURE_SUFFIXES)} files")
    if is_file and len(paths) > 1:
        raise CommandError(f"--out {out} is one picture for {len(paths)} images; give a folder")
    if is_file:
        return {paths[0]: out}
    if out.exists() and not out.is_dir():
        raise CommandError(f"--out {out} is a file, but no picture; give a folder")
    if ENDING.fullmatch(out.suffix) and not out.is_dir():
        hint = "; results go to --json" if out.suffix.lower() == ".json" else ", or make that folder first"
        raise CommandError(
            f"--out {out} is neither a picture nor a folder; give a {', '.join(PICTURE_SUFFIXES)} file of "
            f"one image, or a folder without an ending{hint}"
        )
    if any(folder.is_dir() and folder.resolve() == out.resolve() for folder in given):
        raise CommandError(f"--out {out} is the folder of the images; give another one")
    _require_distinct(paths, "name of the picture", lambda path: path.stem)
    return {path: out / f"{path.stem}.png" for path in paths}


def _require_distinct(paths: Sequence[Path], what: str, key: Callable[[Path], Any]) -> None:
    first: dict[Any, Path] = {}
    for path in paths:
        other = first.setdefault(key(path), path)
        if other is not path:
            raise CommandError(
                f"{other} and {path} would have the same {what} ({key(path)}); "
                "rename one or give them to separate commands"
            )


def require_new(folder: Path) -> None:
    """Raises CommandError for a folder that is there or cannot be made: said before the work, not after."""
    if folder.exists() or folder.is_symlink():
        raise CommandError(f"{folder} exists; choose another name, or remove it first")
    above = next(place for place in folder.absolute().parents if place.exists())
    try:
        tempfile.TemporaryDirectory(dir=above).cleanup()
    except OSError as error:
        reason = "is a file" if not above.is_dir() else f"cannot be written to ({error.strerror})"
        raise CommandError(f"{folder} cannot be made, as {above} {reason}; choose another name") from error


def write_results(path: Path, content: Any) -> None:
    """Write whole or not at all, so that a kill or a full disk leaves no half file; a list as its name ends.

    Of a name such as found.jsonl each record has a line.
    """
    try:
        if is_jsonl(path) and isinstance(content, list):
            write_lines(path, content)
        else:
            write_json(path, content)
    except OSError as error:
        raise CommandError(f"the results could not be written to {path}: {error}") from error
