"""Accuracy of grounded boxes (docs/published_system.md#box-accuracy)."""

from __future__ import annotations

from typing import ClassVar

from torchvision.ops import box_iou

from ufo.callbacks.metric import MetricCallback, Record, required
from ufo.metrics.grounding import BoxAccuracy
from ufo.types import Prediction, Target


class GroundingAccuracy(MetricCallback):
    """Acc@0.5 (an IoU of exactly 0.5 is right) and mean_IoU, every sentence counting once.

    An answer without a box counts as wrong.

    Args:
        threshold: IoU from which on a box is right.
    """

    task: ClassVar[str] = "grounding"

    def __init__(self, threshold: float = 0.5) -> None:
        super().__init__()
        self.threshold = threshold

    def make_metric(self, classes: tuple[str, ...]) -> BoxAccuracy:
        return BoxAccuracy(self.threshold, sync_on_compute=False)

    def record(self, prediction: Prediction, target: Target, classes: tuple[str, ...]) -> Record:
        (annotated,) = required(target, "boxes")
        boxes = prediction.boxes
        if boxes is None or len(boxes) == 0:
            boxes = annotated.new_zeros(len(annotated), 4)
        return boxes, annotated

    def score(self, record: Record) -> float:
        return float(box_iou(record[0][:1].float(), record[1][:1].float()))
