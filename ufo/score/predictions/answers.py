"""One record of a prediction file: which example it is about, and what it says, still as written.

Boxes are float64 `[N, 4]` in the declared convention; masks are COCO RLE, polygons or paths of pictures.
Field names are those that other projects use, too (`FIELDS`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ufo.data.datasets.coco_file import key_of, short
from ufo.data.errors import DataError
from ufo.score.texts import FormatError, TextFormat

FIELDS = {
    "id": ("sent_id", "sentence_id", "id"),
    "image": ("image_id", "image", "file_name", "img", "image_path"),
    "text": ("text", "expression", "sent", "sentence", "question", "query"),
    "answer": ("answer", "response", "prediction", "pred", "output"),
    "boxes": ("boxes", "bboxes", "bbox", "box", "bbox_2d"),
    "scores": ("scores", "score"),
    "labels": ("labels", "label", "categories", "category", "class", "category_id"),
    "masks": ("masks", "segmentations", "segmentation", "mask", "rle"),
    "nothing": ("no_target", "nothing"),
}
SENTENCE = ("sent_id", "sentence_id")
"""Fields that number sentences; `id` may also number the record."""


@dataclass
class Answer:
    """What a record says about one image or expression."""

    where: str
    id: int | str | None = None
    numbered: bool = False  # `id` is said to be that of a sentence
    image: int | str | None = None
    names: tuple[int | str, ...] = ()  # what else the record calls its image
    text: str | None = None
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))
    scores: list[float] | None = None  # N; None: the record states none
    labels: list[int | str] | None = None  # N
    boxed: bool = True  # says a box of each object, or that there is none
    masks: list[Any] | None = None  # N; None: it has no masks
    nothing: bool = False  # says itself that there is no such object
    broken: str = ""  # what is wrong with its text
    worded: bool = False  # has a text in place of objects, which is not read
    said: str | None = None  # the answer of a task that is answered with a text
    record: dict[str, Any] = field(default_factory=dict)  # all of it, where the task's kind reads its own

    @property
    def count(self) -> int:
        """N: its objects."""
        return len(self.boxes) if self.masks is None else len(self.masks)


def read_record(
    record: dict[str, Any], where: str, texts: TextFormat | None, key: str = "", whole: bool = False
) -> Answer:
    """A record of JSON. Raises DataError that says where something is no number.

    Args:
        texts: the format of `answer`; None: boxes and masks are fields of their own.
        key: the record is about a text, which stands in this field or in `answer`; "": it is not.
        whole: the record is kept as it is.
    """
    number = _of(record, "id")
    images = _images(record)
    answer = Answer(
        where,
        id=key_of(record, number) if number else None,
        numbered=number in SENTENCE,
        image=images[0] if images else None,
        names=tuple(images[1:]),
        text=None if (asked := _of(record, "text")) is None else str(record[asked]),
        nothing=bool(record.get(_of(record, "nothing") or "", False)),
    )
    if whole:
        answer.record = record
        return answer
    if key:
        said = record.get(key, record.get(_of(record, "answer") or ""))
        answer.said = str(said) if isinstance(said, (str, int, float)) else None
        return answer
    if found := _of(record, "masks"):
        masks = record[found]
        several = isinstance(masks, list) and found in ("masks", "segmentations")
        answer.masks = list(masks) if several else [] if masks is None else [masks]
    if texts is not None:
        _read_text(answer, record, texts)
    elif found := _of(record, "boxes"):
        if answer.masks is None:
            _refuse_lost(record, found, where)
        answer.boxes = _numbers(record[found], where)
    else:
        answer.boxed = answer.nothing
        worded = isinstance(record.get(_of(record, "answer") or ""), str)
        answer.worded = worded and answer.masks is None and not answer.nothing
    answer.scores = _scores(record, where, answer.count)
    if answer.labels is None:
        answer.labels = _labels(record, answer.count, where)
    if answer.masks is not None and len(answer.boxes) != len(answer.masks):
        answer.boxes, answer.boxed = np.zeros((len(answer.masks), 4)), False
    return answer


def _of(record: dict[str, Any], what: str) -> str | None:
    """The field of a record that holds something, under any of its names."""
    return next((key for key in FIELDS[what] if key in record), None)


def _images(record: dict[str, Any]) -> list[int | str]:
    """All that a record calls its image, an id before file names."""
    found = [key_of(record, key) for key in FIELDS["image"]]
    return list(dict.fromkeys(name for name in found if name is not None))


def _read_text(answer: Answer, record: dict[str, Any], texts: TextFormat) -> None:
    key = _of(record, "answer")
    if key is None or not isinstance(record[key], (str, list, dict)):
        raise DataError(f"{answer.where} has no text in `{FIELDS['answer'][0]}`, which --answers needs.")
    said = record[key] if isinstance(record[key], str) else json.dumps(record[key], ensure_ascii=False)
    try:
        found = texts.parse(said)
    except FormatError as error:
        answer.broken = str(error)
        return
    answer.boxes = np.array([box.values for box in found], dtype=np.float64).reshape(-1, 4)
    if not np.isfinite(answer.boxes).all():
        answer.boxes, answer.broken = np.zeros((0, 4)), "a number that is none"
    elif any(box.label for box in found):
        answer.labels = [box.label for box in found]


def _refuse_lost(record: dict[str, Any], found: str, where: str) -> None:
    """Raises DataError for an object that is named and has no box: it would be lost without a word."""
    label, box = _of(record, "labels"), record[found]
    if label and (box is None or (box == [] and not isinstance(record[label], list))):
        empty = "null" if box is None else "an empty list"
        raise DataError(f"{where} has a class and no box, but {empty} in `{found}`; leave the record out.")


def _numbers(value: Any, where: str) -> np.ndarray:
    """Boxes float64 `[N, 4]` of one box or a list of boxes."""
    if value is None:
        return np.zeros((0, 4))
    try:
        boxes = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        boxes = np.zeros(1)
    if boxes.size == 0:
        return np.zeros((0, 4))
    if boxes.shape[-1] != 4 or boxes.ndim > 2:
        raise DataError(f"{where}: {short(str(value))} is no box of four numbers.")
    if not np.isfinite(boxes).all():
        raise DataError(
            f"{where}: the box {short(str(value))} holds what is no number (NaN or infinite); leave it out."
        )
    return boxes.reshape(-1, 4)


def _scores(record: dict[str, Any], where: str, count: int) -> list[float] | None:
    key = _of(record, "scores")
    if key is None or record[key] is None:
        return None
    value = record[key]
    try:
        scores = [float(v) for v in value] if isinstance(value, list) else [float(value)] * count
    except (TypeError, ValueError):
        scores = [math.nan]
    if any(map(math.isnan, scores)):
        raise DataError(f"{where}: the score {short(str(value))} is no number.")
    if len(scores) != count:
        raise DataError(f"{where} has {len(scores)} scores for {count} objects; give one for each.")
    return scores


def _labels(record: dict[str, Any], count: int, where: str) -> list[int | str] | None:
    key = _of(record, "labels")
    if key is None:
        return None
    value = record[key]
    labels = value if isinstance(value, list) else [value] * count
    if len(labels) != count:
        raise DataError(f"{where} has {len(labels)} labels for {count} objects; give one for each.")
    labels = [int(v) if isinstance(v, float) and v.is_integer() else v for v in labels]
    if not all(isinstance(v, (int, str)) for v in labels):
        raise DataError(f"{where}: the label of an object is a class name or a category id.")
    return labels


def without_scores(answers: Sequence[Answer]) -> int:
    """How many objects state no score."""
    return sum(answer.count for answer in answers if answer.scores is None)


def picture(folder: Path, name: str) -> Path:
    """A mask's file, whose name is as the predictions' folder sees it."""
    path = Path(name)
    return path if path.is_absolute() else folder / path
