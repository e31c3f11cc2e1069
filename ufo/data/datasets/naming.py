"""What classes and images are called: lists in text files, other names, objects and parts.

See docs/published_system.md#parts.
A part of an object is "car wheel" or "the wheel of the car"; a training batch draws one wording for all.
"""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path

from ufo.data.datasets.base import require
from ufo.data.errors import DataError


def read_names(names: Sequence[str] | str | Path, argument: str = "classes") -> tuple[str, ...]:
    """Names from a sequence, or from a UTF-8 text file with one name per line.

    Raises DataError if the file is missing or no UTF-8, or if a name is empty or appears twice.
    """
    if isinstance(names, (str, Path)):
        path = require(names, argument)
        try:
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8 text at byte {error.start}.") from error
        names = [line.strip() for line in lines if line.strip()]
    if isinstance(names, Mapping) or not isinstance(names, Iterable):
        raise DataError(
            f"`{argument}` is a list of names in label order, or a text file with one name per line, not "
            f"{reprlib.repr(names)}."
        )
    if strange := [name for name in names if not isinstance(name, str)]:
        raise DataError(
            f"`{argument}` has the name {strange[0]!r}, which is not a text: YAML reads no, yes, null and "
            'numbers such as 03 or 1e3 in its own way. Quote it as it is spelled, for example "no".'
        )
    names = tuple(name.strip() for name in names)
    if "" in names:
        raise DataError(f"`{argument}` has an empty name at place {names.index('') + 1}; name every class.")
    if repeated := sorted(name for name, count in Counter(names).items() if count > 1):
        raise DataError(f"Class names must be different, but {', '.join(repeated)} appears more than once.")
    return names


def renamed(classes: tuple[str, ...], rename: Sequence[str] | str | Path) -> tuple[str, ...]:
    """Other names for `classes`, in their order. Raises DataError unless there is one for each."""
    names = read_names(rename, "rename")
    if len(names) != len(classes):
        raise DataError(f"`rename` has {len(names)} names for {len(classes)} classes; give one for each.")
    return names


def part_wordings(classes: tuple[str, ...], separator: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Classes such as "car" and "car:wheel" as ("car", "car wheel") and ("car", "the wheel of the car").

    Explanations in brackets ("mouse_(computer_equipment)") are left out where names stay different.
    """
    split = [tuple(field.strip() for field in name.split(separator, 1)) for name in classes]
    short = [tuple(field.split("_(", 1)[0] for field in fields) for fields in split]
    times = Counter(short)
    split = [brief if times[brief] == 1 else full for brief, full in zip(short, split, strict=True)]
    plain = tuple(" ".join(fields) for fields in split)
    other = tuple(f"the {f[1]} of the {f[0]}" if len(f) == 2 else f[0] for f in split)
    return plain, other


def read_split(path: str | Path, known: Container[str] = ()) -> list[str]:
    """Names of the images that a split file lists: the line if it is a `known` name, else its first word."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text at byte {error.start}.") from error
    words = (line.strip() for line in lines)
    names = [word if word in known else word.split()[0] for word in words if word]
    if not names:
        raise DataError(f"{path} lists no images.")
    if wrong := next((name for name in names if ".." in name or name.startswith("/")), None):
        raise DataError(f"{path} lists {wrong!r}, which is not a name of an image below a folder.")
    return names
