"""Objects: COCO's AP of boxes or masks, by pycocotools' own evaluator, as a training's callbacks have it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from ufo.data.datasets.coco_file import short
from ufo.data.errors import DataError
from ufo.kinds import Kind, Objects
from ufo.metrics.coco_ap import CocoAP
from ufo.ops.names import find_class
from ufo.score.ap_resampling import AREAS, certainty, class_ap, resampled_ap
from ufo.score.predictions import Answer
from ufo.score.tasks.base import Reads, Rows, Rules, Scorer
from ufo.score.truth import Example, Truth

DETECTIONS = (1, 10, 100)
"""COCO's own numbers of detections per image and class."""
OTHER_NAME = "object that also states a class which the annotations do not have, and counts for its other"


class ObjectScorer(Scorer):
    """mAP, mAP50, mAP75 and those of small, medium and large objects."""

    kind: ClassVar[Kind | None] = Objects()
    reads: ClassVar[Reads] = "boxes"
    headline: ClassVar[str] = "mAP"
    threshold: ClassVar[bool] = True
    iou_type: ClassVar[Literal["bbox", "segm"]] = "bbox"

    def __init__(self, truth: Truth, rules: Rules) -> None:
        super().__init__(truth, rules)
        self._metric = CocoAP(self.iou_type, truth.classes, DETECTIONS)
        self._scored = False  # some object states a score
        self.unknown: dict[str, int] = {}  # classes that the annotations do not have

    def add(self, example: Example, answers: Sequence[Answer]) -> None:
        self.problems["answer not in its format"] += sum(bool(answer.broken) for answer in answers)
        labels = [label for answer in answers for label in self._labels(answer)]
        self._scored |= any(answer.scores for answer in answers)
        scores = [score for a in answers for score in (a.scores or [1.0] * a.count)]
        shapes = self._shapes(example, answers)
        self.below += sum(score < self.rules.min_score for score in scores)
        kept = [i for i, label in enumerate(labels) if label >= 0 and scores[i] >= self.rules.min_score]
        self._count_repeats([(str(shapes[i]), scores[i], labels[i]) for i in kept])
        try:
            self._metric.update(
                [shapes[i] for i in kept],
                torch.tensor([scores[i] for i in kept], dtype=torch.float64),
                torch.tensor([labels[i] for i in kept], dtype=torch.int64),
                self._wanted(example),
                torch.tensor(example.labels, dtype=torch.int64),
                torch.tensor(self._ignored(example), dtype=torch.bool),
                torch.tensor(example.areas, dtype=torch.float64),
            )
        except ValueError as error:
            raise DataError(f"{example}: {error}.") from error

    def _shapes(self, example: Example, answers: Sequence[Answer]) -> list[Any]:
        return self.boxes(example, answers, corners=False).tolist()

    def _wanted(self, example: Example) -> list[Any]:
        return example.boxes

    def _ignored(self, example: Example) -> list[bool]:
        """Which annotated objects are neither found nor missed."""
        return example.crowd

    def _labels(self, answer: Answer) -> list[int]:
        """The class of each object. Raises DataError if the record says two."""
        said = self._labels_of(answer)
        if not answer.spoken:
            self._refuse_digits(answer)
        labels = [self._find(label) for label in said]
        for label, name in zip(labels, said, strict=True):
            if label < 0:
                self.unknown[str(name)] = self.unknown.get(str(name), 0) + 1
                self.problems["object of a class that the annotations do not have"] += 1
        for others in answer.called:
            for label, name, other in zip(labels, said, others, strict=True):
                also = self._find(other)
                if min(label, also) >= 0 and label != also:
                    raise DataError(
                        f"{answer.where} calls an object {short(name)} and {short(other)}, which are two "
                        f"classes of {self.truth.path}; leave the wrong one out."
                    )
                if also < 0 <= label:
                    self.problems[OTHER_NAME] += 1
        return labels

    def _labels_of(self, answer: Answer) -> list[Any]:
        if answer.labels is not None:
            return answer.labels
        if answer.count and len(self.truth.classes) > 1:
            raise DataError(
                f"{answer.where} does not say the class of its objects; add `category_id` or `label`."
            )
        return [self.truth.classes[0]] * answer.count

    def _find(self, label: Any) -> int:
        """The class's index; -1 where the annotations have no such class."""
        if not isinstance(label, str):
            return self.truth.categories.get(label, -1)
        found = find_class(label, self.truth.classes)[0]
        if found < 0 and _is_number(label):  # as a model says it in words
            found = self.truth.categories.get(int(label), -1)
        return found if found >= 0 else self.truth.categories.get(label, -1)

    def _refuse_digits(self, answer: Answer) -> None:
        """Raises DataError for a class that is named by its number, written as a text."""
        names = {name for said in (answer.labels, *answer.called) for name in said or ()}
        for name in (name for name in names if isinstance(name, str) and _is_number(name)):
            if int(name) in self.truth.categories and find_class(name, self.truth.classes)[0] < 0:
                raise DataError(
                    f'{answer.where} calls a class by the text "{name}", and the annotations by the number '
                    f"{int(name)}; write it without quotation marks."
                )

    def _count_repeats(self, objects: Sequence[tuple[Any, ...]]) -> None:
        if repeats := len(objects) - len(set(objects)):
            self.problems["object given twice"] += repeats

    @cached_property
    def _evaluated(self) -> COCOeval:
        return self._metric.evaluated()

    def values(self) -> dict[str, float]:
        return {name: float(value) for name, value in self._metric.values(self._evaluated).items()}

    def resampled(self, weights: Tensor) -> dict[str, Tensor]:
        return resampled_ap(self._evaluated, weights)

    def certainty(self) -> Tensor | None:
        return certainty(self._evaluated) if self._scored else None

    def tables(self) -> dict[str, Rows]:
        counts = torch.zeros(len(self.truth.classes))
        sizes = torch.zeros(len(AREAS))
        for example in self.truth.examples:
            ignored = self._ignored(example)
            for label, area, crowd in zip(example.labels, example.areas, ignored, strict=True):
                counts[label] += not crowd
                sizes += torch.tensor([not crowd and low <= area <= high for low, high in AREAS.values()])
        values = self.values()
        return {
            "class": {
                name: {"number": count, **row}
                for (name, row), count in zip(
                    class_ap(self._evaluated, self.truth.classes).items(), counts.tolist(), strict=True
                )
            },
            "size": {
                size: {"number": count, "mAP": values["mAP" if size == "all" else f"mAP_{size}"]}
                for size, count in zip(AREAS, sizes.tolist(), strict=True)
            },
        }


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()


class InstanceScorer(ObjectScorer):
    """The same of masks."""

    kind: ClassVar[Kind | None] = Objects(masks=True)
    reads = "masks"
    iou_type: ClassVar[Literal["bbox", "segm"]] = "segm"

    def _shapes(self, example: Example, answers: Sequence[Answer]) -> list[Any]:
        return list(self.masks(example, answers))

    def _wanted(self, example: Example) -> list[Any]:
        return list(example.masks())

    def _ignored(self, example: Example) -> list[bool]:
        return [crowd or place in example.no_mask for place, crowd in enumerate(example.crowd)]
