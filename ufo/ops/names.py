"""Which class an answer names, although a tokenizer may not give the name back letter by letter.

BERT puts blanks around punctuation ("cabinet / shelf"), drops capitals and accents and joins some words
("'s"); names that differ in nothing else are told apart by what they are exactly.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache

Fold = Callable[[str], str]


def _written(name: str) -> str:
    """Without blanks, which decoding adds and removes around punctuation."""
    return "".join(name.split())


def _lower(name: str) -> str:
    """And without capitals."""
    return _written(name).casefold()


def _letters(name: str) -> str:
    """And only letters and digits, without accents."""
    split = unicodedata.normalize("NFKD", _lower(name))
    return "".join(character for character in split if character.isalnum())


FOLDS: tuple[Fold, ...] = (str.strip, _written, _lower, _letters)
"""From the strictest to the most tolerant comparison."""


def find_class(text: str, classes: Sequence[str]) -> tuple[int, str]:
    """Index of the class that an answer begins with, and the text behind the comma after it.

    A name may itself hold commas: the longest that fits wins. The index is -1 if no class, or more than one,
    is meant; the text is then what follows the first comma.
    """
    names = tuple(classes)
    _, most = _tables(names)
    fields = text.split(",")
    for end in range(min(most, len(fields)), 0, -1):
        if (index := _index(",".join(fields[:end]), names)) >= 0:
            return index, ",".join(fields[end:])
    return -1, ",".join(fields[1:])


@lru_cache(maxsize=4096)  # most queries of an image say the same
def _index(name: str, classes: tuple[str, ...]) -> int:
    """Index of the class of that name by the strictest comparison that finds one; -1: none, or several."""
    tables, _ = _tables(classes)
    found = (table.get(fold(name), -1) for fold, table in zip(FOLDS, tables, strict=True))
    return next((index for index in found if index >= 0), -1)


@lru_cache(maxsize=64)
def _tables(classes: tuple[str, ...]) -> tuple[list[dict[str, int]], int]:
    """Index by name for each of FOLDS, -1 where two names are one, and the most fields of a name."""
    tables = []
    for fold in FOLDS:
        table: dict[str, int] = {}
        for i, name in enumerate(classes):
            key = fold(name)
            if key:
                table[key] = -1 if key in table else i
        tables.append(table)
    return tables, max((name.count(",") + 1 for name in classes), default=1)
