"""Expressions that mean one object, several or none (gRefCOCO): N-acc, T-acc, gIoU, cIoU, F1=1@0.5."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ufo.metrics.generalized import box_sums, generalized_boxes, generalized_ious, text_sums
from ufo.ops.overlap import rle_overlap
from ufo.score.predictions import Answer
from ufo.score.tasks.base import SumScorer
from ufo.score.truth import Example

MEANS = ("no object", "one object")


class GeneralizedBoxScorer(SumScorer):
    """An answer counts as right if its boxes with at least `min_score` are exactly the annotated ones."""

    reads = "boxes"
    headline: ClassVar[str] = "F1=1@0.5"
    threshold: ClassVar[bool] = True

    def add(self, example: Example, answers: Sequence[Answer]) -> None:
        self.problems["answer not in its format"] += sum(bool(answer.broken) for answer in answers)
        boxes = self.boxes(example, answers, corners=True)
        scores = np.array([s for a in answers for s in (a.scores or [1.0] * a.count)])
        self.below += int((scores < self.rules.min_score).sum())
        said_none = any(answer.nothing for answer in answers)
        kept = boxes[scores >= self.rules.min_score] if len(boxes) and not said_none else boxes[:0]
        kept = kept[(kept[:, 2:] > kept[:, :2]).all(1)]  # a box of zeros is none
        if _unanswered(answers):  # neither right about a text that means nothing, nor found anything
            kept = np.zeros((1, 4)) if not example.boxes else kept
        wanted = [[x, y, x + w, y + h] for x, y, w, h in example.boxes]
        sums = box_sums(torch.from_numpy(kept), torch.tensor(wanted, dtype=torch.float64).reshape(-1, 4))
        self.count(example, sums, {"meaning": _meaning(example)})

    def of_sums(self, sums: Tensor) -> dict[str, Tensor]:
        return generalized_boxes(sums)


class GeneralizedMaskScorer(SumScorer):
    """An answer says "nothing" with an empty mask, without one, or with `no_target`."""

    reads = "masks"
    headline: ClassVar[str] = "gIoU"

    def add(self, example: Example, answers: Sequence[Answer]) -> None:
        self.problems["answer not in its format"] += sum(bool(answer.broken) for answer in answers)
        masks = self.masks(example, answers)
        overlap = rle_overlap(masks, example.masks() if example.boxes else [])
        empty = int(rle_overlap(masks, [])[1]) == 0
        nothing = (empty or any(answer.nothing for answer in answers)) and not _unanswered(answers)
        sums = text_sums(overlap, not example.boxes, nothing)
        self.count(example, sums, {"meaning": _meaning(example)})

    def of_sums(self, sums: Tensor) -> dict[str, Tensor]:
        return generalized_ious(sums)


def _unanswered(answers: Sequence[Answer]) -> bool:
    """Whether there is no answer, or only broken ones: that is no "nothing"."""
    return all(answer.broken for answer in answers)


def _meaning(example: Example) -> str:
    number = len(example.boxes)
    return MEANS[number] if number < len(MEANS) else "several objects"
