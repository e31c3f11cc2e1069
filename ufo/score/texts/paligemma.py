"""PaliGemma: `<loc0256><loc0130><loc0769><loc0900> dog ; ...`, in the order y1, x1, y2, x2, of 1024 bins."""

from __future__ import annotations

import re

from ufo.score.texts.base import Box, FormatError, TextFormat

_LOC = re.compile(r"<loc(\d{4})>")


def parse(text: str) -> list[Box]:
    """One box for each part between semicolons that has locations."""
    boxes = []
    for part in text.split(";"):
        found = _LOC.findall(part)
        if not found and "<loc" not in part:
            continue
        if len(found) != 4 or part.count("<loc") != 4:
            raise FormatError(f"{part.count('<loc')} locations instead of four in {part.strip()[:60]!r}")
        top, left, bottom, right = map(float, found)
        boxes.append(Box((left, top, right, bottom), _LOC.sub("", part).strip()))
    return boxes


FORMAT = TextFormat("paligemma", parse, "xyxy", "bins:1024", "<loc0256><loc0130><loc0769><loc0900> dog")
