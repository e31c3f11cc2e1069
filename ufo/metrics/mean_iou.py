"""Mean IoU of class maps, from histograms over the whole data set (docs/published_system.md#mean-iou).

A histogram is int64 `[3, C]` for C classes: pixels in the intersection, predicted, annotated.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from ufo.kinds import ClassMap, Kind
from ufo.metrics.base import MetricCallback, Record, required
from ufo.ops.overlap import class_histograms, mean_iou
from ufo.types import IGNORE, Prediction, Target


class SegmentationScores(Metric):
    """aAcc, mIoU and mAcc of summed histograms; a class that occurs nowhere is left out of the
    means.

    `IoU_c = intersection / (predicted + annotated - intersection)`, `Acc_c = intersection /
    annotated`, `aAcc` the share of all pixels that is right. torchmetrics' `MulticlassJaccardIndex`
    gives the same mIoU (a test compares them) but neither accuracy, and keeps C x C counts, too
    many to be stored per image, which dropping duplicated images needs.
    """

    full_state_update = False
    higher_is_better = True
    histograms: Tensor  # int64 [3, C]

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        zeros = torch.zeros(3, num_classes, dtype=torch.int64)
        self.add_state("histograms", default=zeros, dist_reduce_fx="sum")

    def update(self, histograms: Tensor) -> None:
        """Add the `[3, C]` histograms of an image, from `class_histograms`."""
        self.histograms += histograms.to(self.histograms)

    def compute(self) -> dict[str, Tensor]:
        """Scalars float64 in 0..1; 0 when no pixel was counted."""
        return segmentation_scores(self.histograms)


def segmentation_scores(histograms: Tensor) -> dict[str, Tensor]:
    """The values of `SegmentationScores` of summed histograms `[..., 3, C]`: float64 `[...]` each."""
    intersection, _, annotated = histograms.double().unbind(-2)
    values = {
        "mIoU": mean_iou(histograms),
        "aAcc": intersection.sum(-1) / annotated.sum(-1),
        "mAcc": (intersection / annotated).nanmean(-1),
    }
    return {name: value.nan_to_num() for name, value in values.items()}


class MeanIoU(MetricCallback):
    """mIoU, aAcc and mAcc; classes that occur nowhere and pixels labelled `IGNORE` do not count."""

    kind: ClassVar[Kind | None] = ClassMap()
    headline = "mIoU"
    shown = ("mAcc",)

    def make_metric(self, classes: tuple[str, ...]) -> SegmentationScores:
        return SegmentationScores(len(classes), sync_on_compute=False)

    def record(self, prediction: Prediction, target: Target, classes: tuple[str, ...]) -> Record:
        (predicted,), (annotated,) = required(prediction, "semantic"), required(target, "semantic")
        return (class_histograms(predicted, annotated, len(classes), IGNORE),)
