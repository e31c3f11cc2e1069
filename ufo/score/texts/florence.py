"""Florence-2: `dog<loc_52><loc_333><loc_932><loc_774>`, in the order x1, y1, x2, y2, of 1000 bins.

Several boxes of a name stand behind it. A number names a bin, and its middle is meant.
"""

from __future__ import annotations

import re

from ufo.score.texts.base import Box, FormatError, TextFormat

_PART = re.compile(r"([^<>]*)((?:<loc_\d+>)+)")
_TAGS = re.compile(r"</?(?:s|pad)>")


def parse(text: str) -> list[Box]:
    """The boxes behind each name."""
    boxes, text = [], _TAGS.sub("", text)
    parts = _PART.findall(text)
    if sum(run.count("<loc_") for _, run in parts) != text.count("<loc_"):
        raise FormatError("a location without a number")
    for label, run in parts:
        values = [float(value) + 0.5 for value in re.findall(r"\d+", run)]
        if len(values) % 4:
            raise FormatError(f"{len(values)} locations behind {label.strip()[:40]!r}, no multiple of four")
        for i in range(0, len(values), 4):
            a, b, c, d = values[i : i + 4]
            boxes.append(Box((a, b, c, d), label.strip()))
    return boxes


FORMAT = TextFormat("florence", parse, "xyxy", "0-1000", "dog<loc_52><loc_333><loc_932><loc_774>")
