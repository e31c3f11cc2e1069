"""Mean IoU of class maps, from histograms over the whole data set (docs/published_system.md#mean-iou).

A histogram is int64 `[3, C]` for C classes: pixels in the intersection, predicted, annotated.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from ufo.metrics.base import MetricCallback, Record, required
from ufo.types import IGNORE, Prediction, Target


def class_histograms(prediction: Tensor, target: Tensor, num_classes: int, ignore: int = IGNORE) -> Tensor:
    """Count the pixels of one image (or of any two maps of one size).

    Args:
        prediction: integer `[H, W]`, class indices.
        target: integer `[H, W]`, class indices or `ignore`; on any device.
        num_classes: C.
        ignore: label of annotated pixels that do not count.

    Returns:
        int64 `[3, C]` on the prediction's device.

    Raises:
        ValueError: the sizes differ, or a map holds an index outside 0..C-1.
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f"the predicted map is {tuple(prediction.shape)} but the annotated one is "
            f"{tuple(target.shape)}; resize the prediction to the original image's size"
        )
    target = target.to(prediction.device)
    counted = target != ignore
    predicted, annotated = prediction[counted].long(), target[counted].long()
    maps = (predicted[predicted == annotated], predicted, annotated)
    for name, values in (("predicted", predicted), ("annotated", annotated)):
        if values.numel() and not 0 <= values.min() <= values.max() < num_classes:
            raise ValueError(
                f"the {name} map holds class {values.max()} but there are {num_classes} classes; "
                f"map its values to 0..{num_classes - 1} or {ignore}"
            )
    return torch.stack([torch.bincount(values, minlength=num_classes) for values in maps])


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
        intersection, predicted, annotated = self.histograms.double()
        values = {
            "mIoU": (intersection / (predicted + annotated - intersection)).nanmean(),
            "aAcc": intersection.sum() / annotated.sum(),
            "mAcc": (intersection / annotated).nanmean(),
        }
        return {name: value.nan_to_num() for name, value in values.items()}


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
