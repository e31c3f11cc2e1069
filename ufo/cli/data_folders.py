"""What `ufo data check` finds by comparing folders with records: files without record, records without file.

Only folders that a record or a path of the config names are looked at: the folder of all data sets may hold
other sets too.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ufo.data.image_files import IMAGE_SUFFIXES
from ufo.data.pictures import find_file, is_file

PICTURES = IMAGE_SUFFIXES


def used_files(data: Any) -> set[str] | None:
    """The image files that records name, below `data.images`; None if a format cannot tell.

    Of a name in another spelling it is the file that is read.
    """
    if not getattr(data, "images", None):
        return None
    named = {os.path.normpath(name) for name in data.files()}
    there = set(_listed(data.images, _folders(named)))
    return {name if name in there else _found(data.images, name) for name in named} or None


def _found(folder: Path, name: str) -> str:
    path = find_file(folder, name)
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else name


def missing_files(data: Any) -> list[str]:
    """Names of image files that a record names and that are not there, without opening any."""
    missing: list[str] = []
    for part in _parts(data):
        if named := used_files(part):
            there = set(_listed(part.images, _folders(named)))
            # what is reached in another way ("../a.jpg", a link) is not in the listing
            missing += sorted(name for name in named - there if not is_file(part.images / name))
    return missing


def image_paths(data: Any) -> set[Path]:
    """Where the image files are that the records name; empty where a format cannot tell."""
    found: set[Path] = set()
    for part in _parts(data):
        names = used_files(part) or ()
        folder = Path(part.images).resolve() if names else Path()
        found.update(folder / name for name in names)
    return found


def unused_files(datasets: Iterable[Any]) -> Iterator[tuple[Path, str]]:
    """Per folder: what is to be said about images, and label maps, that no split uses.

    Files that a data set has left out itself are counted among its problems.
    """
    images: dict[Path, set[str]] = {}
    maps: dict[Path, set[str]] = {}
    for data in (part for whole in datasets for part in _parts(whole)):
        named = used_files(data)
        if named is None:
            return
        images.setdefault(Path(data.images), set()).update(named, getattr(data, "images_left_out", ()))
        if hasattr(data, "label_files"):
            maps.setdefault(Path(data.labels), set()).update(data.label_files(), data.maps_left_out)
    for folder in images.keys() & maps.keys():  # images and maps lie side by side
        images[folder] |= maps.pop(folder)
    kinds = (("image file that no record uses", images), ("label map without an image", maps))
    for kind, used in kinds:
        for folder, known in used.items():
            there = _pictures(_listed(folder, _folders(known)))
            if extra := sorted(set(there) - known):
                yield folder, f"{len(extra):,}x {kind}, left out ({_examples(extra)})"


def _parts(data: Any) -> list[Any]:
    """The data sets that one is made of."""
    parts = getattr(data, "parts", None)
    return [data] if parts is None else [deep for part in parts for deep in _parts(part)]


def _folders(named: Iterable[str]) -> set[str]:
    """The folders of some files, "" for the one that names start from."""
    return {str(PurePosixPath(name).parent).removeprefix(".") for name in named}


def _listed(folder: Path, inside: Iterable[str]) -> list[str]:
    """The files of some sub-folders, named from `folder`."""
    found = []
    for part in inside:
        try:
            with os.scandir(folder / part) as entries:
                found += [f"{part}/{e.name}" if part else e.name for e in entries if e.is_file()]
        except OSError:  # the records name a folder that is not there: their files are missing
            continue
    return found


def _pictures(names: Iterable[str]) -> list[str]:
    """Those that look like pictures; notes, archives and hidden files are nobody's data."""
    return [
        name
        for name in names
        if PurePosixPath(name).suffix.lower() in PICTURES and not PurePosixPath(name).name.startswith(".")
    ]


def _examples(names: list[str], most: int = 3) -> str:
    """The first names, and how many have which suffix if they are of several kinds."""
    kinds: Mapping[str, int] = Counter(PurePosixPath(name).suffix for name in names)
    counted = ", ".join(f"{n} *{suffix}" for suffix, n in sorted(kinds.items(), key=lambda kind: -kind[1]))
    first = ", ".join(names[:most]) + (", ..." if len(names) > most else "")
    return f"{counted}: {first}" if len(kinds) > 1 else first
