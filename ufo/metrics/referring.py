"""Referring segmentation: cIoU and gIoU of one mask per text.
See docs/published_system.md#mask-iou.

An overlap is int64 `[2]`: pixels in the intersection and in the union of two masks.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from ufo.kinds import Kind, Referred
from ufo.metrics.base import MetricCallback, Record, required
from ufo.metrics.generalized import GeneralizedIoU
from ufo.ops.masks import rle_decode
from ufo.ops.overlap import mask_overlap
from ufo.types import Prediction, Target

EPS = 1e-5
"""Added to the union where gIoU divides by it, as in the published numbers."""


class ReferringIoU(Metric):
    """`cIoU` and `gIoU` of masks P_i and annotations G_i, one pair per text i, over the pixels that count.

        cIoU = sum_i |P_i & G_i| / sum_i |P_i or G_i|
        gIoU = mean_i g_i,   g_i = |P_i & G_i| / (|P_i or G_i| + 1e-5),   g_i = 1 where both are empty

    cIoU is also called overall or cumulative IoU; large objects dominate it. gIoU is the mean of the IoU of
    each text (of the foreground: not the mIoU of foreground and background that some logs show). An empty
    answer to an empty annotation is right, any other answer to it counts 0.
    """

    full_state_update = False
    higher_is_better = True
    sums: Tensor  # float64 [4], of `mask_sums`

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("sums", torch.zeros(4, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, overlap: Tensor) -> None:
        """Add the overlap `[2]` of one text, or of N texts `[N, 2]`, from `mask_overlap`."""
        self.sums += mask_sums(overlap.to(self.sums)).sum(0)

    def compute(self) -> dict[str, Tensor]:
        """Scalars float64 in 0..1; 0 when there was nothing, or nothing but empty masks, to compare."""
        return mask_ious(self.sums)


def mask_sums(overlap: Tensor) -> Tensor:
    """What sums up over texts: float64 `[N, 4]` of overlaps `[N, 2]` (or `[2]`).

    Intersection, union, `g_i` and 1; see `ReferringIoU`.
    """
    overlap = overlap.double().reshape(-1, 2)
    iou = single_iou(overlap)[:, None]
    return torch.cat([overlap, iou, torch.ones_like(iou)], dim=1)


def mask_ious(sums: Tensor) -> dict[str, Tensor]:
    """cIoU and gIoU of summed `mask_sums` `[..., 4]`: float64 `[...]` each."""
    intersection, union, iou, total = sums.unbind(-1)
    return {"cIoU": intersection / union.clamp(min=1), "gIoU": iou / total.clamp(min=1)}


def single_iou(overlap: Tensor) -> Tensor:
    """`g_i` of overlaps `[N, 2]`: float64 `[N]`, see `ReferringIoU`."""
    intersection, union = overlap.double().unbind(-1)
    return torch.where(union > 0, intersection / (union + EPS), torch.ones_like(union))


def overlap(prediction: Prediction, target: Target) -> Tensor:
    """`mask_overlap` of the predicted and the annotated masks of one text, each joined to one."""
    predicted, annotated = required(prediction, "masks") + required(target, "masks")
    wanted = rle_decode(annotated, target.size).any(0)
    ignore = None if target.ignore is None else rle_decode([target.ignore], target.size)[0]
    return mask_overlap(predicted.any(0), wanted, ignore)


class ReferredMasks(Metric):
    """`ReferringIoU` of all texts; where some of them mean nothing, `GeneralizedIoU`."""

    full_state_update = False
    empty: Tensor  # int64 [], texts that mean nothing

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.always_there, self.any_number = ReferringIoU(**kwargs), GeneralizedIoU(**kwargs)
        self.add_state("empty", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, overlap: Tensor, empty: bool, nothing: bool) -> None:
        """One text; the arguments are those of `GeneralizedIoU`."""
        self.always_there.update(overlap)
        self.any_number.update(overlap, empty, nothing)
        self.empty += empty

    def compute(self) -> dict[str, Tensor]:
        """Scalars float64 in 0..1, NaN where the texts do not define one."""
        return (self.any_number if self.empty else self.always_there).compute()


class ReferringScores(MetricCallback):
    """cIoU and gIoU over all texts; see `ReferringIoU` for the formulas.

    Where texts mean nothing these are gRefCOCO's, with N-acc and T-acc (`GeneralizedIoU`).
    """

    kind: ClassVar[Kind | None] = Referred(masks=True)
    headline = "cIoU"
    shown = ("gIoU",)

    def make_metric(self, classes: tuple[str, ...]) -> ReferredMasks:
        return ReferredMasks(sync_on_compute=False)

    def record(self, prediction: Prediction, target: Target, classes: tuple[str, ...]) -> Record:
        predicted, annotated = required(prediction, "masks") + required(target, "masks")
        # an object of which only the box is known has an empty mask, too
        known = target.boxes is not None and bool((target.boxes[:, 2:] > target.boxes[:, :2]).any())
        empty = not known and not bool(rle_decode(annotated, target.size).any())
        return overlap(prediction, target), empty, not bool(predicted.any())
