"""The fields of one record of a prediction file: their names, and what they may hold.

Field names are those that other projects use, too (`FIELDS`). What a record says twice in different words is
refused: which of them is meant nobody can know.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ufo.data.datasets.coco_file import MAX_COORDINATE, key_of, short
from ufo.data.errors import DataError

FIELDS = {
    "id": ("sent_id", "sentence_id", "id"),
    "image": ("image_id", "image", "file_name", "img", "image_path"),
    "text": ("text", "expression", "sent", "sentence", "question", "query"),
    "answer": ("answer", "response", "prediction", "pred", "output"),
    "boxes": ("boxes", "bboxes", "bbox", "box", "bbox_2d"),
    "scores": ("scores", "score"),
    "labels": (
        *("labels", "label", "categories", "category", "class", "category_id"),
        *("category_name", "class_name"),
    ),
    "masks": ("masks", "segmentations", "segmentation", "mask", "rle"),
    "nothing": ("no_target", "nothing"),
}
SENTENCE = ("sent_id", "sentence_id")
"""Fields that number sentences; `id` may also number the record."""


def field_of(record: dict[str, Any], what: str) -> str | None:
    """The first field of a record that holds something, under any of its names."""
    return next((key for key in FIELDS[what] if key in record), None)


def one_field(record: dict[str, Any], what: str, where: str) -> str | None:
    """The same, one that is not null before others. Raises DataError if two of them say different things."""
    told = [key for key in FIELDS[what] if record.get(key) is not None]
    for key in told[1:]:
        if record[key] != record[told[0]]:
            raise DataError(
                f"{where} says different things in `{told[0]}` and in `{key}`; keep the one that counts."
            )
    return told[0] if told else field_of(record, what)


def images_of(record: dict[str, Any]) -> list[int | str]:
    """All that a record calls its image, an id before file names."""
    found = [key_of(record, key) for key in FIELDS["image"]]
    return list(dict.fromkeys(name for name in found if name is not None))


def refuse_lost(record: dict[str, Any], found: str, where: str) -> None:
    """Raises DataError for an object that is named and has no box: it would be lost without a word."""
    label, box = field_of(record, "labels"), record[found]
    if label and (box is None or (box == [] and not isinstance(record[label], list))):
        empty = "null" if box is None else "an empty list"
        raise DataError(f"{where} has a class and no box, but {empty} in `{found}`; leave the record out.")


def boxes_of(value: Any, where: str) -> np.ndarray:
    """Boxes float64 `[N, 4]` of one box or a list of boxes."""
    if value is None or value == []:
        return np.zeros((0, 4))
    said = short(str(value))
    rows = value if isinstance(value, list) else []
    for number in (n for row in rows for n in (row if isinstance(row, list) else [row])):
        _refuse_words(number, f"the box {said}", where)
    try:
        boxes = np.array(rows, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        boxes = np.zeros(1)
    if boxes.shape[-1] != 4 or boxes.ndim > 2:
        raise DataError(f"{where}: {said} is no box of four numbers; write [a, b, c, d], or a list of such.")
    if not np.isfinite(boxes).all():
        raise DataError(f"{where}: the box {said} holds what is no number (NaN or infinite); leave it out.")
    if (abs(boxes) > MAX_COORDINATE).any():
        raise DataError(
            f"{where}: the box {said} has a number above {MAX_COORDINATE:g}, which lies in no image; leave "
            "it out."
        )
    return boxes.reshape(-1, 4)


def scores_of(record: dict[str, Any], where: str, count: int, *, shared: bool = False) -> list[float] | None:
    """The score of each of `count` objects; None if the record states none.

    Args:
        shared: one score may be that of all objects, as of an answer in words.
    """
    key = one_field(record, "scores", where)
    if key is None or record[key] is None:
        return None
    value = record[key]
    for number in value if isinstance(value, list) else [value]:
        _refuse_words(number, f"the score {short(number)}", where)
    try:
        scores = [float(v) for v in value] if isinstance(value, list) else [float(value)] * count
    except (TypeError, ValueError, OverflowError):
        scores = [math.nan]
    if not all(map(math.isfinite, scores)):
        raise DataError(
            f"{where}: the score {short(str(value))} is no finite number; write one, or leave the object out."
        )
    if count > 1 and not isinstance(value, list) and not shared:
        raise DataError(f"{where} has one score for {count} objects; give a list with one for each.")
    if len(scores) != count:
        raise DataError(f"{where} has {len(scores)} scores for {count} objects; give one for each.")
    return scores


def labels_of(record: dict[str, Any], count: int, where: str) -> list[list[int | str]]:
    """What each of its fields calls the class of each of `count` objects: the one that counts is first."""
    found: list[list[int | str]] = []
    for key in (key for key in FIELDS["labels"] if record.get(key) is not None):
        value = record[key]
        labels = value if isinstance(value, list) else [value] * count
        if found and (len(labels) != count or None in labels):
            continue  # of something else, as the classes that were asked for
        if len(labels) != count:
            raise DataError(f"{where} has {len(labels)} labels for {count} objects; give one for each.")
        labels = [int(v) if isinstance(v, float) and v.is_integer() else v for v in labels]
        if not all(isinstance(v, (int, str)) and not isinstance(v, bool) for v in labels):
            raise DataError(f"{where}: the label of an object is a class name or a category id.")
        found.append(labels)
    return found


def _refuse_words(value: Any, what: str, where: str) -> None:
    """Raises DataError for a text, or true or false, in place of a number: Python would take it for one."""
    if isinstance(value, bool):
        raise DataError(f"{where}: {what} holds true or false in place of a number; write the number.")
    if isinstance(value, str):
        raise DataError(f"{where}: {what} is written as a text; write numbers without quotation marks.")
