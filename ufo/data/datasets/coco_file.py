"""What a COCO-style JSON holds, read defensively: sections, ids, sizes, boxes, categories.

Shared by detection files and the instance files of referring expressions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ufo.data.datasets.base import MAX_PIXELS, Problems, image_size
from ufo.data.errors import DataError

Box = tuple[float, float, float, float]  # x, y, width, height in pixels


def coco_sections(content: Any, path: Path) -> dict[str, list[dict[str, Any]]]:
    """The three lists of a COCO file, or DataError naming what is missing."""
    for section in ("images", "annotations", "categories"):
        records = content.get(section) if isinstance(content, dict) else None
        if not isinstance(records, list):
            raise no_list(section, path)
        for record in records:
            check_record(section, record, path)
    return content


def check_record(section: str, record: Any, path: Path, name_key: str = "file_name") -> None:
    """DataError if an entry of a COCO file's list is none or lacks what it cannot do without."""
    if not isinstance(record, dict):
        raise no_list(section, path)
    needed = {"images": ("id", name_key), "categories": ("id", "name")}
    for key in needed.get(section, ()):
        if key_of(record, key) is None:
            raise DataError(f"{path}: an entry of `{section}` has no usable `{key}`.")


def no_list(section: str, path: Path) -> DataError:
    """The error of a file that lacks one of the lists."""
    return DataError(f"{path} is not a COCO detection file: it has no list `{section}`.")


def key_of(record: dict[str, Any], name: str) -> int | str | None:
    """The record's id `name` if it is a number or a text, else None."""
    value = record.get(name)
    return value if isinstance(value, (int, str)) else None


@dataclass(frozen=True)
class FileName:
    """Where the images of a file are, below the image folder: the last `parts` of a record's `key`.

    LVIS names its images by `coco_url` ("http://.../train2017/000000391895.jpg"), Objects365 by a path
    ("images/v2/patch16/objects365_v2_00908726.jpg") of which two parts are real. `parts` None: as it is.
    """

    key: str = "file_name"
    parts: int | None = None

    def __call__(self, record: dict[str, Any]) -> str:
        """The path of an image record."""
        name = str(record[self.key])
        return name if self.parts is None else "/".join(PurePosixPath(name).parts[-self.parts :])


def size_of(
    record: dict[str, Any], images: Path, problems: Problems, name: str | None = None
) -> tuple[int, int]:
    """(height, width) of an image record, from the header of its file (`name`) if the record lacks it."""
    height, width = record.get("height"), record.get("width")
    if not (isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0):
        problems.report("image without height and width", f"image {record['id']}")
        return image_size(images / (name or record["file_name"]))
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
    names = [str(record["name"]).strip() for record in records]
    chosen = names if classes is None else [str(name).strip() for name in classes]
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
    return tuple(chosen), {r["id"]: label.get(name) for r, name in zip(records, names, strict=True)}


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
    """Why an annotation is not trained on (docs/published_system.md#coco), or None."""
    if record.get("ignore", False):
        return "annotation marked as ignored"
    if outside(box, size):
        return "box outside its image"
    if area_of(record, box) <= 0 or min(box[2:]) < 1:
        return "box or area smaller than a pixel"
    return None
