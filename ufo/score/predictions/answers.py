"""One record of a prediction file: which example it is about, and what it says, still as written.

Boxes are float64 `[N, 4]` in the declared convention; masks are COCO RLE, polygons or paths of pictures.
How a field is read, and what it is called, is in `fields`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ufo.data.datasets.coco_file import MAX_COORDINATE, flag, key_of
from ufo.data.errors import DataError
from ufo.score.predictions.fields import (
    FIELDS,
    SENTENCE,
    boxes_of,
    field_of,
    images_of,
    labels_of,
    one_field,
    refuse_lost,
    scores_of,
)
from ufo.score.texts import FormatError, TextFormat


@dataclass
class Answer:
    """What a record says about one image or expression."""

    where: str
    id: int | str | None = None
    numbered: bool = False  # `id` is said to be that of a sentence
    image: int | str | None = None
    by_id: bool = False  # `image` is said in the field of ids, and not in one of file names
    names: tuple[int | str, ...] = ()  # what else the record calls its image
    text: str | None = None
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))
    scores: list[float] | None = None  # N; None: the record states none
    shared: bool = False  # one score was stated for all of several objects
    labels: list[int | str] | None = None  # N
    spoken: bool = False  # its labels are words of an answer
    called: list[list[int | str]] = field(default_factory=list)  # what else it calls their classes, N each
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
    number = field_of(record, "id")
    images = images_of(record)
    answer = Answer(
        where,
        id=key_of(record, number) if number else None,
        numbered=number in SENTENCE,
        image=images[0] if images else None,
        by_id=key_of(record, "image_id") is not None,
        names=tuple(images[1:]),
        text=None if (asked := field_of(record, "text")) is None else str(record[asked]),
        nothing=flag(record, field_of(record, "nothing") or ""),
    )
    if whole:
        answer.record = record
        return answer
    if key:
        said = record[key] if key in record else record.get(one_field(record, "answer", where) or "")
        answer.said = str(said) if isinstance(said, (str, int, float)) else None
        return answer
    if found := one_field(record, "masks", where):
        masks = record[found]
        several = isinstance(masks, list) and found in ("masks", "segmentations")
        answer.masks = list(masks) if several else [] if masks is None else [masks]
    if texts is not None:
        _read_text(answer, record, texts)
    elif found := one_field(record, "boxes", where):
        if answer.masks is None:
            refuse_lost(record, found, where)
        answer.boxes = boxes_of(record[found], where)
    else:
        answer.boxed = answer.nothing
        worded = isinstance(record.get(field_of(record, "answer") or ""), str)
        answer.worded = worded and answer.masks is None and not answer.nothing
    answer.scores = scores_of(record, where, answer.count, shared=texts is not None)
    stated = record.get(one_field(record, "scores", where) or "")
    answer.shared = answer.count > 1 and stated is not None and not isinstance(stated, list)
    if answer.labels is None and (called := labels_of(record, answer.count, where)):
        answer.labels, *answer.called = called
    if answer.masks is not None and len(answer.boxes) != len(answer.masks):
        answer.boxes, answer.boxed = np.zeros((len(answer.masks), 4)), False
    return answer


def _read_text(answer: Answer, record: dict[str, Any], texts: TextFormat) -> None:
    key = one_field(record, "answer", answer.where)
    if key is None or not isinstance(record[key], (str, list, dict)):
        raise DataError(f"{answer.where} has no text in `{FIELDS['answer'][0]}`, which --answers needs.")
    said = record[key] if isinstance(record[key], str) else json.dumps(record[key], ensure_ascii=False)
    try:
        found = texts.parse(said)
    except FormatError as error:
        answer.broken = str(error)
        return
    answer.boxes = np.array([box.values for box in found], dtype=np.float64).reshape(-1, 4)
    if not (abs(answer.boxes) <= MAX_COORDINATE).all():  # "not all" also catches NaN
        answer.boxes, answer.broken = np.zeros((0, 4)), "a number that lies in no image"
    elif any(box.label for box in found):
        answer.labels, answer.spoken = [box.label for box in found], True


def without_scores(answers: Sequence[Answer]) -> int:
    """How many objects state no score."""
    return sum(answer.count for answer in answers if answer.scores is None)


def picture(folder: Path, name: str) -> Path:
    """A mask's file, whose name is as the predictions' folder sees it."""
    path = Path(name)
    return path if path.is_absolute() else folder / path
