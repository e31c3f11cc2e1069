"""Which image files a command works on and where its pictures and results go.

Everything is checked before the first image is touched: nothing overwrites an input or itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ufo.cli import CommandError
from ufo.files import scratch_for, write_json
from ufo.ops.nearest import beside

if TYPE_CHECKING:
    from PIL import Image

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
SUFFIXES = frozenset((*PICTURE_SUFFIXES, ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"))


@dataclass
class Outputs:
    """Where things are written; what is empty is not wanted."""

    pictures: dict[Path, Path] = field(default_factory=dict)  # image -> its picture
    json: Path | None = None


def find_images(inputs: Sequence[Path]) -> list[Path]:
    """The files given, and the images of the folders given (by suffix, sorted), each file once.

    Raises CommandError for what does not exist and for folders without images.
    """
    paths: dict[Path, Path] = {}  # by resolved path
    for given in inputs:
        if given.is_dir():
            inside = sorted(
                p
                for p in given.iterdir()
                if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file()
            )
            if not inside:
                raise CommandError(
                    f"there are no images in the folder {given} (looked for "
                    f"{' '.join(sorted(SUFFIXES))}, not in subfolders)"
                )
        elif given.exists():
            inside = [given]
        else:
            raise CommandError(f"there is no file or folder {given}{beside(given)}")
        for path in inside:
            paths.setdefault(path.resolve(), path)
    return list(paths.values())


def plan_outputs(
    given: Sequence[Path], paths: Sequence[Path], json: Path | None, out: Path | None
) -> Outputs:
    """Where everything goes; folders that are missing are made now.

    Args:
        given: the files and folders as the user named them.
        paths: the images found in them.
        json: the file of the results.
        out: the picture of the only image, or a folder of pictures.

    Raises CommandError where results would overwrite each other or an image, or have no place.
    """
    outputs = Outputs(json=json)
    if json:
        if json.is_dir():
            raise CommandError(f"--json {json} is a folder; give the name of a file")
        _require_distinct(paths, "image_id in the results", image_id)
    if out:
        outputs.pictures = _plan_pictures(out, given, paths)
    written = [*outputs.pictures.values(), *([json] if json else [])]
    images = {path.resolve() for path in paths}
    for path in written:
        if path.resolve() in images:
            raise CommandError(f"{path} is one of the images to work on; write somewhere else")
        path.parent.mkdir(parents=True, exist_ok=True)
    return outputs


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture whole or not at all; a link in its place is replaced, not what that points to."""
    from PIL import Image

    format = Image.registered_extensions()[path.suffix.lower()]
    with scratch_for(path) as scratch:
        picture.save(scratch, format=format)


def _plan_pictures(out: Path, given: Sequence[Path], paths: Sequence[Path]) -> dict[Path, Path]:
    is_file = out.suffix.lower() in SUFFIXES and not out.is_dir()
    if is_file and out.suffix.lower() not in PICTURE_SUFFIXES:
        raise CommandError(f"--out {out}: pictures are {', '.join(PICTURE_SUFFIXES)} files")
    if is_file and len(paths) > 1:
        raise CommandError(f"--out {out} is one picture for {len(paths)} images; give a folder")
    if is_file:
        return {paths[0]: out}
    if out.exists() and not out.is_dir():
        raise CommandError(f"--out {out} is a file, but no picture; give a folder")
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


def image_id(path: Path) -> int | str:
    """The file's stem; as a number where it is one, as in COCO's files."""
    return int(path.stem) if path.stem.isascii() and path.stem.isdigit() else path.stem


def write_results(path: Path, content: Any) -> None:
    """Write whole or not at all, so that a kill or a full disk leaves no half file."""
    try:
        write_json(path, content)
    except OSError as error:
        raise CommandError(f"the results could not be written to {path}: {error}") from error
