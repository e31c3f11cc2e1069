"""Scores compared: AP, ECE and Brier score of the same answers under every score that their task may have.

Objects are judged as COCOeval matches them at IoU 0.5; what a text refers to counts as an object of one class
in an image of its own. Shapes: `N` predicted objects of one image; boxes are xyxy in original pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ufo.kinds import Kind, Objects
from ufo.kinds.objects import select
from ufo.metrics.calibration import calibration, calibration_sums, reliability
from ufo.metrics.coco_ap import CocoAP, judged
from ufo.metrics.examples import ExampleMetric
from ufo.ops.masks import rle_decode, rle_encode
from ufo.types import Prediction, Target, given

CONSTANT = "constant"
"""The score 1 for every object, in the order of the answers: what a model has that states no scores."""
SHOWN = ("mAP", "mAP50", "mAP75")


class Shapes(NamedTuple):
    """Objects of one image."""

    shapes: Any  # boxes [N, 4] or N RLE dicts
    scores: Tensor
    labels: Tensor
    crowd: Tensor | None = None
    area: Tensor | None = None


@dataclass(eq=False)
class Compared:
    """One image: what was found under each score, and what is there."""

    masks: bool
    found: Mapping[str, Shapes]
    truth: Shapes


@dataclass(frozen=True)
class Column:
    """What one score is worth."""

    values: dict[str, float]
    rows: dict[str, dict[str, float]]  # of a reliability diagram
    images: Tensor  # int64 [N], of every prediction
    scores: Tensor  # float64 [N]
    right: Tensor  # bool [N]


class ScoresCompared(ExampleMetric):
    """AP and calibration by score.

    Args:
        classes: the names of the labels, in order; none: there is one.
    """

    def __init__(self, classes: tuple[str, ...]) -> None:
        super().__init__()
        self.classes = classes or ("object",)

    def update(self, compared: Compared) -> None:
        """Add one image."""
        self.examples.append(compared)

    def compute(self) -> dict[str, Tensor]:
        """Scalars float64 by score and number: `quality/mAP`."""
        return {
            f"{score}/{name}": torch.tensor(value, dtype=torch.float64)
            for score, column in self.columns().items()
            for name, value in column.values.items()
        }

    def columns(self) -> dict[str, Column]:
        """By score; a score that some images lack is left out."""
        names = [set(example.found) for example in self.examples]
        every = [n for n in (self.examples[0].found if names else ()) if all(n in some for some in names)]
        return {name: self._column(name) for name in every}

    def _column(self, score: str) -> Column:
        iou_type: Literal["bbox", "segm"] = "segm" if self.examples[0].masks else "bbox"
        metric = CocoAP(iou_type, self.classes)
        for example in self.examples:
            found, truth = example.found[score], example.truth
            objects = found.shapes, found.scores, found.labels
            metric.update(*objects, truth.shapes, truth.labels, truth.crowd, truth.area)
        evaluator = metric.evaluated()
        images, scores, right = judged(evaluator)
        sums = calibration_sums(scores, right)
        values = {name: float(v) for name, v in metric.values(evaluator).items() if name in SHOWN}
        values |= {name: float(v) for name, v in calibration(sums).items()}
        return Column(values, reliability(sums), images, scores, right)


def compared(prediction: Prediction, target: Target, kind: Kind) -> Compared:
    """One image as `ScoresCompared` takes it.

    Raises ValueError where the prediction does not say what it is under other scores.
    """
    under = given(prediction.under, "predictions under other scores")
    found = {score: _found(other, kind) for score, other in under.items()}
    first = under["first"]
    shapes = _found(first if first.rows is None else _in_order(first), kind)
    constant = shapes._replace(scores=torch.ones_like(shapes.scores))
    return Compared(kind.masks, {CONSTANT: constant, **found}, _truth(target, kind))


def _in_order(prediction: Prediction) -> Prediction:
    """The objects in the order of the answers that named them, which no score decides."""
    return select(prediction, given(prediction.rows, "rows").argsort(stable=True))


def _found(prediction: Prediction, kind: Kind) -> Shapes:
    """The objects of a prediction, on the CPU."""
    scores = given(prediction.scores, "scores").float().cpu()
    if isinstance(kind, Objects):
        labels = given(prediction.labels, "labels").cpu()
        return Shapes(_shapes(prediction.boxes, prediction.masks, kind), scores, labels)
    if not kind.masks:
        boxes = given(prediction.boxes, "boxes").cpu()
        there = (boxes[:, 2:] > boxes[:, :2]).all(1)
        return Shapes(boxes[there], scores[there], torch.zeros(int(there.sum()), dtype=torch.int64))
    masks = given(prediction.masks, "masks")
    there = masks.flatten(1).any(1).cpu()
    number = int(there.any())  # all masks of a text are one
    score = scores[there].mean(0, keepdim=True)[:number]
    return Shapes(rle_encode(masks.any(0, keepdim=True))[:number], score, torch.zeros(number).long())


def _truth(target: Target, kind: Kind) -> Shapes:
    none = torch.zeros(0)
    if isinstance(kind, Objects):
        labels = given(target.labels, "labels")
        shapes = given(target.masks if kind.masks else target.boxes, "masks" if kind.masks else "boxes")
        return Shapes(shapes, none, labels, target.iscrowd, target.area)
    if not kind.masks:
        boxes = given(target.boxes, "boxes")
        boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(1)]
        return Shapes(boxes, none, torch.zeros(len(boxes), dtype=torch.int64))
    mask = rle_decode(given(target.masks, "masks"), target.size).any(0, keepdim=True)
    number = int(mask.any())
    return Shapes(rle_encode(mask)[:number], none, torch.zeros(number).long())


def _shapes(boxes: Tensor | None, masks: Tensor | None, kind: Kind) -> Any:
    return rle_encode(given(masks, "masks")) if kind.masks else given(boxes, "boxes").cpu()
