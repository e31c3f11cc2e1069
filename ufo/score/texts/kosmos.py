"""Kosmos-2: `<phrase>a dog</phrase><object><patch_index_0044><patch_index_0863></object>`.

The two patches, of a grid of 32 x 32, are the upper left and the lower right one. The box reaches from middle
to middle; where both lie in one row or column, from outer edge to outer edge. Several boxes of a phrase stand
between `</delimiter_of_multi_objects/>`.
"""

from __future__ import annotations

import re

from ufo.score.texts.base import Box, FormatError, TextFormat

SIDE = 32  # patches
_OBJECT = re.compile(r"(?:<phrase>(.*?)</phrase>)?\s*<object>(.*?)</object>", re.S)
_PATCH = re.compile(r"<patch_index_(\d{4})>")
_NEXT = "</delimiter_of_multi_objects/>"


def parse(text: str) -> list[Box]:
    """The boxes of all objects, in units of the image."""
    boxes = []
    found = _OBJECT.findall(text)
    if len(found) != text.count("<object>"):
        raise FormatError("an <object> without its </object>")
    for label, inside in found:
        for part in inside.split(_NEXT):
            patches = [int(number) for number in _PATCH.findall(part)]
            if len(patches) != 2 or max(patches) >= SIDE * SIDE:
                raise FormatError(f"no two patches of {SIDE * SIDE} in {part[:60]!r}")
            boxes.append(Box(_box(*patches), label.strip()))
    return boxes


def _box(first: int, last: int) -> tuple[float, float, float, float]:
    """xyxy in units of the image."""
    (top, left), (bottom, right) = divmod(first, SIDE), divmod(last, SIDE)
    inner = 0.0 if left == right or top == bottom else 0.5
    return (
        (left + inner) / SIDE,
        (top + inner) / SIDE,
        (right + 1 - inner) / SIDE,
        (bottom + 1 - inner) / SIDE,
    )


FORMAT = TextFormat("kosmos", parse, "xyxy", "0-1", "<object><patch_index_0044><patch_index_0863></object>")
