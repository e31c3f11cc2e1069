"""Writing whole or not at all: under a scratch name in the same folder, then one rename.

A kill, a full disk or a second process leaves the old file or the new one, never half of one. Scratch names
begin with a dot: readers of folders here skip such names. Rights follow the user's umask.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain, count
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

SYSTEM = (Path("/dev"), Path("/proc"), Path("/sys"))
"""Names in here are no files of anybody: /dev/stdout is a link, and may lead to a file."""


def _of_the_system(path: Path) -> bool:
    folder = path.parent.resolve()
    return not folder.is_relative_to("/dev/shm") and any(folder.is_relative_to(place) for place in SYSTEM)


@contextmanager
def scratch_for(path: Path, alone: bool = False) -> Iterator[Path]:
    """A name beside `path` to write to; it becomes `path` when the block ends well, and goes otherwise.

    Args:
        path: the file that is wanted; its folder is made.
        alone: no other process writes this file. Then the scratch name is always the same one, and what a
            killed process left of a large file does not stay beside the next.
    """
    path = Path(path)
    if _of_the_system(path) or (path.exists() and not (path.is_file() or path.is_dir())):
        raise OSError(f"{path} is a device or a pipe, which a file would replace; give the name of a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.part" if alone else f".{path.name}.{uuid.uuid4().hex[:12]}.part")
    try:
        yield scratch
        os.replace(scratch, path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


@contextmanager
def writing(path: Path, mode: str = "w", *, alone: bool = False, durable: bool = False) -> Iterator[IO[Any]]:
    """A file (text in UTF-8, or bytes with mode "wb") that appears when the block ends well, else not at all.

    With `durable` it is on the disk, and not only in the system's memory, before the older file goes.
    """
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    with scratch_for(path, alone) as scratch, open(scratch, mode, **text) as file:  # type: ignore[call-overload]  # mode is "w" or "wb"
        yield file
        if durable:
            file.flush()
            os.fsync(file.fileno())
    if durable:
        _sync_folder(Path(path).parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all; raises OSError."""
    with writing(path) as file:
        file.write(text)


def write_lines(path: Path, records: Iterable[Any]) -> None:
    """Write JSON lines, a record in each; raises OSError."""
    with writing(path) as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def write_json(path: Path, content: Any, indent: int | None = None) -> None:
    """Write JSON, readable for people with an `indent`; raises OSError."""
    end = "" if indent is None else "\n"
    write_text(path, json.dumps(content, indent=indent, ensure_ascii=False) + end)


def stems(names: Iterable[str]) -> dict[str, str]:
    """What files about things of these names are called, without a suffix; no two of them are one file."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        plain = re.sub(r"[^\w.-]+", "_", name)
        tries = chain([plain], (f"{plain}_{number}" for number in count(2)))
        found[name] = next(stem for stem in tries if stem.casefold() not in taken)
        taken.add(found[name].casefold())
    return found


def second_name(file: Path, name: Path) -> bool:
    """Let `name` be another name of `file`, replacing what was there; False where the disk has none such."""
    if not file.is_file():
        return False
    try:
        with scratch_for(name, alone=True) as scratch:
            scratch.unlink(missing_ok=True)
            os.link(file, scratch)
        scratch.unlink(missing_ok=True)  # renaming onto a name of the same file does nothing
    except OSError:
        return False
    return True


def replace_folder(new: Path, path: Path, aside: Path) -> None:
    """Put the finished folder `new` in the place of `path`; if that is there, it is `aside` meanwhile.

    A kill between the two renames leaves `aside` and no `path`. An OSError leaves the old one in its place.
    """
    if path.exists():
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(path, aside)
        try:
            os.rename(new, path)
        except OSError:
            os.rename(aside, path)
            raise
    else:
        os.rename(new, path)
    shutil.rmtree(aside, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    """Let a rename itself survive a crash of the machine, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture in the format of its ending; a link in its place is replaced, not what it leads to."""
    from PIL import Image

    format = Image.registered_extensions()[path.suffix.lower()]
    with scratch_for(path) as scratch:
        picture.save(scratch, format=format)
