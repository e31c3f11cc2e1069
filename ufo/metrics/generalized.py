"""Referring expressions that mean one object, several, or none (gRefCOCO), as its own evaluators count.

Segmentation: GRES (arXiv 2306.00968), boxes: GREC (arXiv 2308.16182). One row of sums per text; an answer
says "nothing" with an empty mask or without a box. Nothing here knows of images or models.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchvision.ops import generalized_box_iou

PRECISIONS = (0.7, 0.8, 0.9)
MATCHED = 0.5
"""Overlap from which on a predicted box is an annotated one."""


def text_sums(overlap: Tensor, empty: bool, nothing: bool) -> Tensor:
    """What sums up over texts of a segmentation: float64 `[11]`.

    Intersection and union, g, 1, those that mean nothing and of these the right ones, those that mean
    something
    and of these the right ones, and whether the IoU reaches each of `PRECISIONS`. An IoU is I / U without the
    1e-5 that other data sets add; of a text that means nothing it is 1 if the answer is "nothing", else 0.

    Args:
        overlap: of `mask_overlap`, `[2]`.
        empty: the text means nothing.
        nothing: the answer says so.
    """
    intersection, union = overlap.double().tolist()
    if empty:
        counted = [0.0, 0.0 if nothing else union, float(nothing)]
        return torch.tensor([*counted, 1, 1, nothing, 0, 0, 0, 0, 0], dtype=torch.float64)
    if nothing:
        intersection = 0.0
    iou = intersection / union if union else 0.0
    reached = [float(iou >= least) for least in PRECISIONS]
    return torch.tensor([intersection, union, iou, 1, 0, 0, 1, not nothing, *reached], dtype=torch.float64)


def generalized_ious(sums: Tensor) -> dict[str, Tensor]:
    """gIoU, cIoU, N-acc, T-acc and precisions of summed `text_sums` `[..., 11]`: float64 `[...]` each.

    N-acc is the share of texts that mean nothing and are answered so, T-acc the share of the others that are
    answered with something; NaN where there is no such text.
    """
    intersection, union, iou, total, empty, empty_right, full, full_right, *reached = sums.unbind(-1)
    values = {
        "gIoU": iou / total.clamp(min=1),
        "cIoU": intersection / union.clamp(min=1),
        "N-acc": empty_right / empty,
        "T-acc": full_right / full,
    }
    return values | {f"Pr@{least}": n / full for least, n in zip(PRECISIONS, reached, strict=True)}


def box_sums(boxes: Tensor, target: Tensor) -> Tensor:
    """What sums up over texts of boxes: float64 `[6]`.

    Whether F1 is 1, 1, and as in `text_sums` the texts that mean nothing and something, each with the right
    ones.
    Boxes are matched greedily by the generalized IoU, the largest first, as the published evaluator does it.

    Args:
        boxes: `[N, 4]` xyxy, none: the answer is "nothing".
        target: `[M, 4]` xyxy, none: the text means nothing.
    """
    nothing, empty = len(boxes) == 0, len(target) == 0
    if empty:
        return torch.tensor([nothing, 1, 1, nothing, 0, 0], dtype=torch.float64)
    hits = 0
    overlaps = generalized_box_iou(boxes.double(), target.double())
    for _ in range(min(overlaps.shape)):
        best = int(overlaps.argmax())
        row, column = divmod(best, len(target))
        if not overlaps[row, column] >= MATCHED:
            break
        hits += 1
        overlaps[row], overlaps[:, column] = 0, 0
    perfect = hits == len(boxes) == len(target)
    return torch.tensor([perfect, 1, 0, 0, 1, not nothing], dtype=torch.float64)


def generalized_boxes(sums: Tensor) -> dict[str, Tensor]:
    """`F1=1@0.5`, N-acc and T-acc of summed `box_sums` `[..., 6]`: float64 `[...]` each."""
    perfect, total, empty, empty_right, full, full_right = sums.unbind(-1)
    return {
        f"F1=1@{MATCHED:g}": perfect / total.clamp(min=1),
        "N-acc": empty_right / empty,
        "T-acc": full_right / full,
    }


class GeneralizedIoU(Metric):
    """gIoU, cIoU, N-acc, T-acc and Pr@0.7 to Pr@0.9 of masks; see `generalized_ious`."""

    full_state_update = False
    higher_is_better = True
    sums: Tensor  # float64 [11]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("sums", torch.zeros(11, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, overlap: Tensor, empty: bool, nothing: bool) -> None:
        """Add one text; the arguments are those of `text_sums`."""
        self.sums += text_sums(overlap, empty, nothing).to(self.sums)

    def compute(self) -> dict[str, Tensor]:
        """Scalars float64 in 0..1, NaN where the texts do not define one."""
        return generalized_ious(self.sums)


class GeneralizedBoxes(Metric):
    """F1=1@0.5, N-acc and T-acc of boxes; see `generalized_boxes`."""

    full_state_update = False
    higher_is_better = True
    sums: Tensor  # float64 [6]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("sums", torch.zeros(6, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, boxes: Tensor, target: Tensor) -> None:
        """Add one text; the arguments are those of `box_sums`."""
        self.sums += box_sums(boxes, target).to(self.sums)

    def compute(self) -> dict[str, Tensor]:
        """Scalars float64 in 0..1, NaN where the texts do not define one."""
        return generalized_boxes(self.sums)
