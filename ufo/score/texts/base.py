"""What a format of answers in words is: how a text becomes boxes, and what its numbers mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


class FormatError(ValueError):
    """A text that is no answer in its format; the message says what is wrong with it."""


@dataclass(frozen=True)
class Box:
    """A box as written."""

    values: tuple[float, float, float, float]
    label: str = ""


@dataclass(frozen=True)
class TextFormat:
    """A named format.

    `parse` gives the boxes of a text, none where it has none, and raises FormatError for a broken one.
    `order` and
    `scale` are those of `ufo.score.convention`; a `scale` of None must be declared, as models of the family
    differ.
    """

    name: str
    parse: Callable[[str], list[Box]]
    order: str
    scale: str | None
    example: str


def four(values: list[str]) -> tuple[float, float, float, float]:
    """Four numbers. Raises FormatError."""
    try:
        a, b, c, d = map(float, values)
    except ValueError:
        raise FormatError(f"{len(values)} numbers instead of four in {','.join(values)[:60]!r}") from None
    return a, b, c, d
