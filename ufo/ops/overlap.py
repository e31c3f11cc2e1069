"""Pixels that two maps or masks share, as counts; metrics and the quality of single images are made of them.

Shapes: `H W` pixels, `C` classes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def class_histograms(prediction: Tensor, target: Tensor, num_classes: int, ignore: int) -> Tensor:
    """Count the pixels of one image (or of any two maps of one size).

    Args:
        prediction: integer `[H, W]`, class indices, or `ignore` where it is unknown: that is always wrong.
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
    right, predicted = predicted[predicted == annotated], predicted[predicted != ignore]
    maps = (right, predicted, annotated)
    for name, values in (("predicted", predicted), ("annotated", annotated)):
        if values.numel() and not 0 <= values.min() <= values.max() < num_classes:
            raise ValueError(
                f"the {name} map holds class {values.max()} but there are {num_classes} classes; "
                f"map its values to 0..{num_classes - 1} or {ignore}"
            )
    return torch.stack([torch.bincount(values, minlength=num_classes) for values in maps])


def mean_iou(histograms: Tensor) -> Tensor:
    """The mean over classes of intersection / (predicted + annotated - intersection), of `[3, C]` histograms.

    A class that occurs nowhere is left out; 0 where none occurs. Scalar float64.
    """
    intersection, predicted, annotated = histograms.double()
    mean: Tensor = (intersection / (predicted + annotated - intersection)).nanmean().nan_to_num()
    return mean


def mask_overlap(prediction: Tensor, target: Tensor, ignore: Tensor | None = None) -> Tensor:
    """Intersection and union in pixels of two masks.

    Args:
        prediction: bool or 0/1 `[H, W]`.
        target: bool or 0/1 `[H, W]`, on any device.
        ignore: bool or 0/1 `[H, W]`, pixels that do not count.

    Returns:
        int64 `[2]` on the prediction's device.

    Raises:
        ValueError: the sizes differ.
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f"the predicted mask is {tuple(prediction.shape)} but the annotated one is "
            f"{tuple(target.shape)}; predict it at the original image's size"
        )
    found, wanted = prediction.bool(), target.to(prediction.device).bool()
    if ignore is not None:
        counted = ~ignore.to(prediction.device).bool()
        found, wanted = found & counted, wanted & counted
    return torch.stack([(found & wanted).sum(), (found | wanted).sum()])
