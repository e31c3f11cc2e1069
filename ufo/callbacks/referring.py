"""cIoU and gIoU of referring and of reasoning segmentation (docs/published_system.md#mask-iou)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ufo.callbacks.metric import MetricCallback, Record, required
from ufo.metrics.referring import ReasoningIoU, ReferringIoU, mask_overlap
from ufo.ops.masks import rle_decode
from ufo.types import Prediction, Target


def overlap(prediction: Prediction, target: Target) -> Tensor:
    """`mask_overlap` of the predicted and the annotated masks of one text, each joined to one."""
    predicted, annotated = required(prediction, "masks") + required(target, "masks")
    wanted = rle_decode(annotated, target.size).any(0)
    ignore = None if target.ignore is None else rle_decode([target.ignore], target.size)[0]
    return mask_overlap(predicted.any(0), wanted, ignore)


def iou(record: Record) -> float:
    """Of one text, from its `overlap`; 1 where nothing was to be found and nothing was."""
    intersection, union = record[0].tolist()
    return intersection / union if union else 1.0


class ReferringScores(MetricCallback):
    """cIoU and gIoU over all texts; see `ReferringIoU` for the formulas."""

    task: ClassVar[str] = "referring_segmentation"

    def make_metric(self, classes: tuple[str, ...]) -> ReferringIoU:
        return ReferringIoU(sync_on_compute=False)

    def record(self, prediction: Prediction, target: Target, classes: tuple[str, ...]) -> Record:
        return (overlap(prediction, target),)

    def score(self, record: Record) -> float:
        return iou(record)


class ReasoningScores(MetricCallback):
    """The same over all texts, phrases, sentences, and the best text of each image; see `ReasoningIoU`."""

    task: ClassVar[str] = "reasoning_segmentation"

    def make_metric(self, classes: tuple[str, ...]) -> ReasoningIoU:
        return ReasoningIoU()

    def record(self, prediction: Prediction, target: Target, classes: tuple[str, ...]) -> Record:
        image = target.image or str(target.image_id)
        return overlap(prediction, target), image, target.sentence

    def score(self, record: Record) -> float:
        return iou(record)
