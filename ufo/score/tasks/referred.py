"""One referred object per expression: Acc@0.5 of boxes, cIoU and gIoU of masks, ReasonSeg's table.

The metrics are those of `ufo.metrics`, example by example.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ufo.kinds import Kind, Referred
from ufo.metrics.calibration import calibration_sums
from ufo.metrics.grounding import accuracy, right_sums
from ufo.metrics.reasoning import Text, image_sums, reasoning_ious
from ufo.metrics.referring import mask_ious, mask_sums
from ufo.ops.overlap import rle_overlap
from ufo.score.predictions import Answer
from ufo.score.tasks.base import Rows, Rules, Scorer, SumScorer, kind_of_object
from ufo.score.truth import Example, Truth

THRESHOLD = 0.5


class BoxScorer(SumScorer):
    """Acc@0.5 and mean IoU; of several boxes the one with the highest score, else the first."""

    kind: ClassVar[Kind | None] = Referred()
    reads = "boxes"
    headline: ClassVar[str] = f"Acc@{THRESHOLD:g}"

    def __init__(self, truth: Truth, rules: Rules) -> None:
        super().__init__(truth, rules)
        self._certain: dict[int, list[tuple[float, bool]]] = defaultdict(
            list
        )  # score and whether it is right

    def add(self, example: Example, answers: Sequence[Answer]) -> None:
        self.said_nothing(answers)
        boxes = self.boxes(example, answers, corners=True)
        scores = [s for a in answers for s in (a.scores or [1.0] * a.count)]
        if len(boxes) > 1:
            self.problems["answer with several boxes, of which one counts"] += 1
            boxes = boxes[[int(np.argmax(scores))]]
        found = boxes if len(boxes) else np.zeros((1, 4))
        found = np.where(
            (found[:, 2:] < found[:, :2]).any(1, keepdims=True), 0.0, found
        )  # inside out: a miss
        x, y, w, h = example.boxes[0]
        wanted = torch.tensor([[x, y, x + w, y + h]], dtype=torch.float64)
        sums = right_sums(torch.from_numpy(found), wanted, THRESHOLD)[0]
        self.count(example, sums, kind_of_object(example, self.truth))
        if any(answer.scores for answer in answers):
            self._certain[self.rows[example.image]].append((max(scores), bool(sums[0])))

    def of_sums(self, sums: Tensor) -> dict[str, Tensor]:
        return accuracy(sums, THRESHOLD)

    def certainty(self) -> Tensor | None:
        if not self._certain:
            return None
        pairs = [
            torch.tensor(self._certain[row], dtype=torch.float64).reshape(-1, 2)
            for row in range(len(self.rows))
        ]
        return torch.stack([calibration_sums(of_image[:, 0], of_image[:, 1] > 0) for of_image in pairs])


class MaskScorer(SumScorer):
    """cIoU and gIoU of the union of an answer's masks."""

    kind: ClassVar[Kind | None] = Referred(masks=True)
    reads = "masks"
    headline: ClassVar[str] = "cIoU"

    def add(self, example: Example, answers: Sequence[Answer]) -> None:
        self.said_nothing(answers)
        overlap = rle_overlap(self.masks(example, answers), example.masks(), example.ignore)
        self.count(example, mask_sums(overlap)[0], kind_of_object(example, self.truth))

    def of_sums(self, sums: Tensor) -> dict[str, Tensor]:
        return mask_ious(sums)


class ReasoningScorer(Scorer):
    """cIoU and gIoU of all texts, of phrases, of sentences, and of the best text of each image."""

    task: ClassVar[str] = "reasoning_segmentation"
    reads = "masks"
    headline: ClassVar[str] = "gIoU"

    def __init__(self, truth: Truth, rules: Rules) -> None:
        super().__init__(truth, rules)
        self._texts: dict[int, list[Text]] = defaultdict(list)

    def add(self, example: Example, answers: Sequence[Answer]) -> None:
        self.said_nothing(answers)
        found, union = rle_overlap(self.masks(example, answers), example.masks(), example.ignore).tolist()
        self._texts[self.rows[example.image]].append(((found, union), example.sentence))

    def _sums(self) -> Tensor:
        """float64 `[n, 6, 4]`."""
        return torch.stack([image_sums(self._texts[row]) for row in range(len(self.rows))])

    def values(self) -> dict[str, float]:
        return {name: float(value) for name, value in reasoning_ious(self._sums().sum(0)).items()}

    def resampled(self, weights: Tensor) -> dict[str, Tensor]:
        return reasoning_ious((weights @ self._sums().flatten(1)).unflatten(1, (6, 4)))

    def tables(self) -> dict[str, Rows]:
        return {}
