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

from ufo.cli.files import SUFFIXES

PICTURES = SUFFIXES


def used_files(data: Any) -> set[str] | None:
    """The image files that records name, below `data.images`; None if a format cannot tell."""
    if not getattr(data, "images", None):
        return None
    return {os.path.normpath(name) for name in data.files()} or None


def missing_files(data: Any) -> list[str]:
    """Names of image files that a record names and that are not there, without opening any."""
    named = used_files(data)
    if not named:
        return []
    there = set(_listed(data.images, _folders(named)))
    # what is reached in another way ("../a.jpg", a link) is not in the listing
    return sorted(name for name in named - there if not (data.images / name).is_file())


def unused_files(datasets: Iterable[Any]) -> Iterator[tuple[Path, str]]:
    """Per folder of images: what is to be said about its files that no record of any split uses."""
    used: dict[Path, set[str]] = {}
    for data in datasets:
        named = used_files(data)
        if named is None:
            return
        used.setdefault(Path(data.images), set()).update(named)
    for folder, named in used.items():
        there = _pictures(_listed(folder, _folders(named)))
        if extra := sorted(set(there) - named):
            yield folder, f"{len(extra):,}x image file that no record uses, left out ({_examples(extra)})"


def unused_maps(datasets: Iterable[Any]) -> Iterator[tuple[Path, str]]:
    """Per folder of label maps: what is to be said about maps that belong to no image."""
    used: dict[Path, set[str]] = {}
    for data in datasets:
        if not hasattr(data, "label_files"):
            return
        used.setdefault(Path(data.labels), set()).update(data.label_files())
    for folder, named in used.items():
        there = _pictures(_listed(folder, _folders(named)))
        if extra := sorted(set(there) - named):
            yield folder, f"{len(extra):,}x label map without an image, left out ({_examples(extra)})"


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
