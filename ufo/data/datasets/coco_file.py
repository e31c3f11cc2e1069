"""What a COCO-style JSON holds, read defensively: sections, ids, sizes, boxes, categories.

Shared by detection files and the instance files of referring expressions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ufo.data.datasets.base import MAX_PIXELS, Problems, image_size
from ufo.data.errors import DataError

Box = tuple[float, float, float, float]  # x, y, width, height in pixels


def coco_sections(content: Any, path: Path) -> dict[str, list[dict[str, Any]]]:
    """The three lists of a COCO file, or DataError naming what is missing."""
    for section in ("images", "annotations", "categories"):
        records = content.get(section) if isinstance(content, dict) else None
        if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
            raise DataError(f"{path} is not a COCO detection file: it has no list `{section}`.")
    keys = ("images", "id"), ("images", "file_name"), ("categories", "id"), ("categories", "name")
    for section, key in keys:
        if any(key_of(record, key) is None for record in content[section]):
            raise DataError(f"{path}: an entry of `{section}` has no usable `{key}`.")
    return content


def key_of(record: dict[str, Any], name: str) -> int | str | None:
    """The record's id `name` if it is a number or a text, else None."""
    value = record.get(name)
    return value if isinstance(value, (int, str)) else None


def size_of(record: dict[str, Any], images: Path, problems: Problems) -> tuple[int, int]:
    """(height, width) of an image record, from the file's header if the record lacks it."""
    height, width = record.get("height"), record.get("width")
    if not (isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0):
        problems.report("image without height and width", f"image {record['id']}")
        return image_size(images / record["file_name"])
    if height * width > MAX_PIXELS:
        raise DataError(
            f"{problems.source}: image {record['id']} is said to have {width}x{height} pixels; "
            f"more than {MAX_PIXELS} are not allowed."
        )
    return height, width


def area_of(record: dict[str, Any], box: Box) -> float:
    """The annotation's area in square pixels, that of its box (x, y, w, h) if it has none."""
    area = record.get("area")
    usable = isinstance(area, (int, float)) and math.isfinite(area)
    return float(area) if usable else box[2] * box[3]


def categories(
    records: list[dict[str, Any]], classes: Sequence[str] | None, path: Path
) -> tuple[tuple[str, ...], dict[Any, int | None]]:
    """Class names in label order, and label by category id (None: a category that is not used).

    Raises DataError if a name in `classes` is missing or appears twice.
    """
    names = [str(record["name"]) for record in records]
    chosen = names if classes is None else [str(name) for name in classes]
    repeated = sorted({name for name in chosen if chosen.count(name) > 1})
    if repeated:
        raise DataError(f"{path}: the class names {', '.join(repeated)} appear more than once.")
    missing = [name for name in chosen if name not in names]
    if missing:
        raise DataError(
            f"{path} has no category {', '.join(missing)}; it has {', '.join(names)}. "
            "Change `classes` to names of this list."
        )
    if len({record["id"] for record in records}) < len(records):
        raise DataError(f"{path}: two categories have the same id.")
    label = {name: k for k, name in enumerate(chosen)}
    return tuple(chosen), {r["id"]: label.get(str(r["name"])) for r in records}


def box_of(record: dict[str, Any]) -> Box | None:
    """The annotation's box x, y, w, h, or None if it has none of four finite numbers."""
    try:
        x, y, w, h = map(float, record["bbox"])
    except (KeyError, TypeError, ValueError):
        return None
    return (x, y, w, h) if math.isfinite(x + y + w + h) else None


def outside(box: Box, size: tuple[int, int]) -> bool:
    """Whether a box and its image of `size` (height, width) have no area in common."""
    x, y, w, h = box
    height, width = size
    return min(x + w, width) <= max(x, 0) or min(y + h, height) <= max(y, 0)


def unusable(record: dict[str, Any], box: Box, size: tuple[int, int]) -> str | None:
    """Why an annotation is not trained on (datasets.md, section 2), or None."""
    if record.get("ignore", False):
        return "annotation marked as ignored"
    if outside(box, size):
        return "box outside its image"
    if area_of(record, box) <= 0 or min(box[2:]) < 1:
        return "box or area smaller than a pixel"
    return None
