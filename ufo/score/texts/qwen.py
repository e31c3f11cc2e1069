"""Qwen-VL: `<ref>dog</ref><box>(x1,y1),(x2,y2)</box>`, in Qwen2-VL's tags, or JSON.

Qwen-VL, Qwen2-VL and Qwen3-VL count thousandths (`--scale 0-1000`), Qwen2.5-VL pixels of the resized image.
"""

from __future__ import annotations

import re

from ufo.score.texts.base import Box, FormatError, TextFormat, four
from ufo.score.texts.plain_json import parse as parse_json

_OPEN = r"(?:<box>|<\|box_start\|>)"
_CLOSE = r"(?:</box>|<\|box_end\|>)"
_NAME = r"(?:<ref>|<\|object_ref_start\|>)(.*?)(?:</ref>|<\|object_ref_end\|>)"
_PIECES = re.compile(rf"{_NAME}|{_OPEN}(.*?){_CLOSE}", re.S)
_CORNERS = re.compile(r"\(\s*([-\d.]+)\s*,\s*([-\d.]+)\s*\)\s*,\s*\(\s*([-\d.]+)\s*,\s*([-\d.]+)\s*\)")


def parse(text: str) -> list[Box]:
    """The boxes between tags, each named by the last reference before it; without tags those of its JSON."""
    opened = len(re.findall(_OPEN, text))
    if not opened:
        return parse_json(text)
    boxes, label, closed = [], "", 0
    for name, inside in _PIECES.findall(text):
        if not inside:
            label = name.strip()
            continue
        closed += 1
        corners = _CORNERS.fullmatch(inside.strip())
        if not corners:
            raise FormatError(f"no (x1,y1),(x2,y2) in {inside[:60]!r}")
        boxes.append(Box(four(list(corners.groups())), label))
    if closed != opened:
        raise FormatError("a box that is not closed")
    return boxes


FORMAT = TextFormat("qwen", parse, "xyxy", None, "<ref>dog</ref><box>(120,44),(380,512)</box>")
