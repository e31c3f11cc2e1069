"""Plain JSON, perhaps in a fence or between words: objects with `bbox` and `label`, or four numbers.

[{"bbox_2d": [12, 30, 200, 310], "label": "dog"}]        {"bbox": [...]}        [12, 30, 200, 310]
"""

from __future__ import annotations

import json
import re
from typing import Any

from ufo.data.json_stream import loads
from ufo.score.texts.base import Box, FormatError, TextFormat

BOXES = ("bbox_2d", "bbox", "box", "boxes", "bboxes")
NAMES = ("label", "name", "class", "category", "object")
_FENCE = re.compile(r"```\w*\s*(.*?)```", re.S)


def parse(text: str) -> list[Box]:
    """The boxes of the first JSON value in a text; none where it has neither a list nor an object."""
    fenced = _FENCE.search(text)
    text = fenced[1] if fenced else text
    start = re.search(r"[\[{]", text)
    if not start:
        return []
    end = max(text.rfind("]"), text.rfind("}")) + 1
    try:
        value = loads(text[start.start() : end])
    except (json.JSONDecodeError, RecursionError) as error:
        raise FormatError(f"JSON that cannot be read ({error})") from None
    return list(_boxes(value, ""))


def _boxes(value: Any, label: str, depth: int = 0) -> list[Box]:
    """The boxes in a value of JSON, outermost first."""
    if depth > 4:
        raise FormatError("JSON nested too deeply to be boxes")
    if isinstance(value, dict):
        named = next((str(value[key]) for key in NAMES if key in value), label)
        key = next((key for key in BOXES if key in value), None)
        if key is None:
            raise FormatError(f"an object with none of {', '.join(BOXES)}")
        return _boxes(value[key], named, depth + 1)
    if not isinstance(value, list):
        raise FormatError("neither a list of boxes nor an object with one")
    numbers = [v for v in value if isinstance(v, (int, float)) and not isinstance(v, bool)]
    if numbers:
        if len(numbers) != 4 or len(value) != 4:
            raise FormatError(f"{len(value)} values instead of the four numbers of a box")
        a, b, c, d = map(float, numbers)
        return [Box((a, b, c, d), label)]
    return [box for part in value for box in _boxes(part, label, depth + 1)]


FORMAT = TextFormat("json", parse, "xyxy", None, '[{"bbox": [12, 30, 200, 310], "label": "dog"}]')
