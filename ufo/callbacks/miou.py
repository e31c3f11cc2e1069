"""Mean IoU of semantic segmentations over the whole data set (docs/published_system.md#mean-iou)."""

from __future__ import annotations

from typing import ClassVar

from ufo.callbacks.metric import MetricCallback, Record, required
from ufo.metrics.segmentation import SegmentationScores, class_histograms
from ufo.types import Prediction, Target


class MeanIoU(MetricCallback):
    """mIoU, aAcc and mAcc; classes that occur nowhere and pixels labelled `IGNORE` do not count."""

    task: ClassVar[str] = "semantic_segmentation"

    def make_metric(self, classes: tuple[str, ...]) -> SegmentationScores:
        return SegmentationScores(len(classes), sync_on_compute=False)

    def record(self, prediction: Prediction, target: Target, classes: tuple[str, ...]) -> Record:
        (predicted,), (annotated,) = required(prediction, "semantic"), required(target, "semantic")
        return (class_histograms(predicted, annotated, len(classes)),)

    def score(self, record: Record) -> float:
        scores = SegmentationScores(record[0].shape[1], sync_on_compute=False)
        scores.update(*record)
        return float(scores.compute()["mIoU"])
