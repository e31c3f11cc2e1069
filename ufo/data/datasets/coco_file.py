"""What a COCO-style JSON holds, read defensively: sections, ids, sizes, boxes, categories.

Shared by detection files and the instance files of referring expressions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ufo.data.datasets.segmentations import Segmentations, areas
from ufo.data.errors import DataError
from ufo.data.json_stream import glimpse
from ufo.data.pictures import MAX_PIXELS, find_file, image_size
from ufo.data.problems import DOUBTFUL, NEGATIVE_SIZE, Problems
from ufo.ops.nearest import few

Box = tuple[float, float, float, float]  # x, y, width, height in pixels
NAMED = 20  # names in a message

LEAVING = "box that leaves its image by more than a pixel"
FEDERATED = "image that was searched for some classes only (LVIS), all others taken as absent"
ODD_AREA = "area that is 0, negative or no number, so that mask or box says it"

MAX_COORDINATE = 1e8
"""No number of a box in pixels is larger: the rest are damaged files."""
FALSE = frozenset(["", "0", "0.0", "false", "no", "none", "null"])


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
        raise no_object(section, path, record)
    needed = {"images": ("id", name_key), "categories": ("id", "name")}
    for key in needed.get(section, ()):
        if key_of(record, key) is None:
            raise DataError(
                f"{path}: an entry of `{section}` has no usable `{key}` ({glimpse(record.items())}); correct "
                "it, or leave it out."
            )


def no_object(section: str, path: Path, entry: Any) -> DataError:
    """The error of a list with an entry that is a number, a text, a list or `null`."""
    shown = "null" if entry is None else short(entry)
    return DataError(
        f"{path}: an entry of `{section}` is not a JSON object in {{...}} ({shown}); leave it out."
    )


def no_list(section: str, path: Path) -> DataError:
    """The error of a file that lacks one of the lists."""
    return DataError(
        f"{path} is not a COCO detection file: it has no list `{section}`; give one with `images`, "
        "`annotations` and `categories`, which `ufo data import` makes of other formats."
    )


def key_of(record: dict[str, Any], name: str) -> int | str | None:
    """The record's id `name` if it is a whole number or a text, else None; 7.0 (of a table) is 7."""
    value = record.get(name)
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value if isinstance(value, (int, str)) and not isinstance(value, bool) else None


def flag(record: dict[str, Any], name: str) -> bool:
    """Whether a mark such as `iscrowd` is set; tools that write tables give numbers as text ("0")."""
    value = record.get(name)
    return value.strip().lower() not in FALSE if isinstance(value, str) else bool(value)


def number_of(value: Any) -> float | None:
    """A finite number as a float, or None for anything else."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer of hundreds of digits
        return None
    return number if math.isfinite(number) else None


def side_of(value: Any) -> int | None:
    """The height or width of an image if it is a whole number of pixels, else None."""
    number = number_of(value)
    return int(number) if number is not None and number >= 1 and number.is_integer() else None


def short(value: Any) -> str:
    """A value of a file for a message: numbers and texts, cut; what is nested is not spelled out."""
    if value is None or isinstance(value, (bool, float)):
        return str(value)
    if isinstance(value, int):
        return str(value) if abs(value) < 10**40 else "a number of more than 40 digits"
    return " ".join(value.split())[:60] if isinstance(value, str) else f"a {type(value).__name__}"


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
    height, width = side_of(record.get("height")), side_of(record.get("width"))
    if height is None or width is None:
        where = f"image {short(record['id'])}"
        problems.report("image without height and width", where, effect=DOUBTFUL)
        return image_size(find_file(images, name or str(record["file_name"])))
    if height * width > MAX_PIXELS:
        raise DataError(
            f"{problems.source}: image {short(record['id'])} is said to have {short(width)}x{short(height)} "
            f"pixels; more than {MAX_PIXELS} are not allowed."
        )
    return height, width


def stated_area(record: dict[str, Any]) -> float | None:
    """The annotation's area in square pixels if it states one above 0: some tools write 0 for all objects."""
    area = number_of(record.get("area"))
    return area if area is not None and area > 0 else None


def area_of(record: dict[str, Any], box: Box, size: tuple[int, int] | None) -> float:
    """What COCO's AP takes an object's size from, in validations and `ufo score` alike, in square pixels.

    The annotation's area; if it states none the pixels of its mask, and without a usable mask those of its
    box (x, y, w, h). `size` is the image's (height, width); None: masks cannot be drawn.
    """
    stated = stated_area(record)
    if stated is not None:
        return stated
    found = Segmentations()
    if size is not None and found.append(record.get("segmentation"), size) is None:
        rle = found.rle(0, size)
        if rle is not None and (pixels := float(areas([rle])[0])):
            return pixels
    return box[2] * box[3]


def some_classes_only(record: dict[str, Any]) -> bool:
    """Whether an image record says, as LVIS does, that it was not searched for all classes."""
    return isinstance(record.get("neg_category_ids"), list) or bool(record.get("not_exhaustive_category_ids"))


def categories(
    records: list[dict[str, Any]], classes: Sequence[str] | None, path: Path
) -> tuple[tuple[str, ...], dict[Any, int | None]]:
    """Class names in label order, and label by category id (None: a category that is not used).

    Raises DataError if a name in `classes` is missing, empty or appears twice.
    """
    names = [str(record["name"]).strip() for record in records]
    chosen = names if classes is None else [name.strip() for name in classes]
    repeated = sorted(name for name, count in Counter(chosen).items() if count > 1)
    if repeated:
        raise DataError(
            f"{path}: the class names {few(repeated, NAMED)} appear more than once; rename the others, or "
            "write each once in `classes`, which takes categories of one name as one class."
        )
    if "" in chosen:
        raise DataError(
            f"{path}: a category has an empty name; name it, or choose the others with `classes`."
        )
    known = set(names)
    missing = [name for name in chosen if name not in known]
    if missing:
        raise DataError(
            f"{path} has no category {few(missing, NAMED)}; it has {few(names, NAMED)}. "
            "Change `classes` to names of this list."
        )
    refuse_shared_id(records, path)
    label = {name: k for k, name in enumerate(chosen)}
    ids = [key_of(record, "id") for record in records]
    return tuple(chosen), {key: label.get(name) for key, name in zip(ids, names, strict=True)}


def refuse_shared_id(records: Sequence[dict[str, Any]], path: Path) -> None:
    """DataError that names two categories with one id."""
    called: dict[Any, str] = {}
    for record in records:
        key, name = key_of(record, "id"), str(record["name"])
        if key in called:
            raise DataError(
                f"{path}: two categories have the same id {short(key)}, {short(called[key])} and "
                f"{short(name)}; number them anew, and their annotations."
            )
        called[key] = name


def box_of(record: dict[str, Any]) -> Box | None:
    """The annotation's box x, y, w, h, or None if it has none of four finite numbers."""
    try:
        x, y, w, h = map(float, record["bbox"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    # "not all" also catches NaN
    return (x, y, w, h) if all(abs(value) <= MAX_COORDINATE for value in (x, y, w, h)) else None


def leaves_image(box: Box, size: tuple[int, int]) -> bool:
    """Whether a box reaches out of its image of `size` (height, width) by more than a pixel."""
    x, y, w, h = box
    height, width = size
    return min(x, y) < -1 or x + w > width + 1 or y + h > height + 1


def outside(box: Box, size: tuple[int, int]) -> bool:
    """Whether a box and its image of `size` (height, width) have no area in common."""
    x, y, w, h = box
    height, width = size
    return min(x + w, width) <= max(x, 0) or min(y + h, height) <= max(y, 0)


def unusable(record: dict[str, Any], box: Box, size: tuple[int, int]) -> str | None:
    """Why an annotation is not trained on (docs/published_system.md#coco), or None.

    Its `area` does not matter: some tools write 0.
    """
    if flag(record, "ignore"):
        return "annotation marked as ignored"
    if min(box[2:]) < 0:
        return NEGATIVE_SIZE
    if min(box[2:]) < 1:
        return "box smaller than a pixel"
    if outside(box, size):
        return "box outside its image"
    return None
