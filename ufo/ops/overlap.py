"""Pixels that two maps or masks share, as counts; metrics and the quality of single images are made of them.

Shapes: `H W` pixels, `C` classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pycocotools import mask as coco_mask
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
    """The mean over classes of intersection / (predicted + annotated - intersection).

    A class that occurs nowhere is left out; 0 where none occurs.

    Args:
        histograms: of `class_histograms`, `[..., 3, C]`.

    Returns:
        float64 `[...]`.
    """
    intersection, predicted, annotated = histograms.double().unbind(-2)
    mean: Tensor = (intersection / (predicted + annotated - intersection)).nanmean(-1).nan_to_num()
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


def rle_overlap(
    found: Sequence[dict[str, Any]], wanted: Sequence[dict[str, Any]], ignore: dict[str, Any] | None = None
) -> Tensor:
    """`mask_overlap` of masks as COCO RLE of one size, each side joined to one, without decoding them.

    Args:
        found, wanted: any number of compressed RLE dicts, none is an empty mask.
        ignore: the pixels that do not count.

    Returns:
        int64 `[2]`.
    """
    left, right = coco_mask.merge(list(found)), coco_mask.merge(list(wanted))
    both = [] if not found or not wanted else [coco_mask.merge([left, right], intersect=True)]
    either = [rle for rle, parts in ((left, found), (right, wanted)) if parts]
    counts = [_counted(both, ignore), _counted([coco_mask.merge(either)] if either else [], ignore)]
    return torch.tensor(counts, dtype=torch.int64)


def _counted(rles: Sequence[dict[str, Any]], ignore: dict[str, Any] | None) -> int:
    """Pixels of one RLE or none, without those of `ignore`."""
    area = sum(int(coco_mask.area(rle)) for rle in rles)
    if ignore is None:
        return area
    return area - sum(int(coco_mask.area(coco_mask.merge([rle, ignore], intersect=True))) for rle in rles)
