"""COCO box AP of detections (docs/published_system.md#average-precision)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from ufo.kinds import Kind, Objects
from ufo.metrics.base import MetricCallback, Record, required
from ufo.metrics.coco_ap import CocoAP
from ufo.types import Prediction, Target


class BoxMAP(MetricCallback):
    """mAP, mAP50, mAP75, mAP_small, mAP_medium and mAP_large of boxes; see `CocoAP`.

    Args:
        max_detections: per image and class; mAP counts the best 100, all others the largest number.
        per_class: also log `mAP/<class>`.
        headline: as in `MetricCallback`.
    """

    kind: ClassVar[Kind | None] = Objects()
    headline = "mAP"
    shown = ("mAP50", "mAP75")
    iou_type: ClassVar[Literal["bbox", "segm"]] = "bbox"

    def __init__(
        self,
        max_detections: Sequence[int] = (100, 300, 1000),
        per_class: bool = False,
        headline: str | None = None,
    ) -> None:
        super().__init__(headline)
        self.max_detections = tuple(max_detections)
        self.per_class = per_class
        self.make_metric(())  # a wrong setting is an error now, not after the first epoch

    def make_metric(self, classes: tuple[str, ...]) -> CocoAP:
        return CocoAP(self.iou_type, classes, self.max_detections, self.per_class)

    def record(self, prediction: Prediction, target: Target, classes: tuple[str, ...]) -> Record:
        predicted = required(prediction, "boxes", "scores", "labels")
        annotated = required(target, "boxes", "labels")
        return *predicted, *annotated, target.iscrowd, target.area
