"""Visual grounding: how many sentences' boxes are right (docs/published_system.md#box-accuracy)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric
from torchvision.ops import box_iou

from ufo.kinds import Kind, Referred
from ufo.metrics.base import MetricCallback, Record, required
from ufo.metrics.generalized import GeneralizedBoxes
from ufo.types import Prediction, Target


class BoxAccuracy(Metric):
    """`Acc@<threshold>`, the share of boxes with IoU >= threshold, and `mean_IoU`.

    Args:
        threshold: an IoU equal to it counts as right.
    """

    full_state_update = False
    higher_is_better = True
    sums: Tensor  # float64 [3], of `right_sums`

    def __init__(self, threshold: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = threshold
        self.add_state("sums", torch.zeros(3, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, boxes: Tensor, target: Tensor) -> None:
        """Compare box by box.

        Args:
            boxes: `[N, 4]` xyxy, original pixels; zeros where no box was found.
            target: `[N, 4]` xyxy, original pixels.

        Raises:
            ValueError: the numbers of boxes differ.
        """
        self.sums += right_sums(boxes, target, self.threshold).sum(0).to(self.sums)

    def compute(self) -> dict[str, Tensor]:
        """Scalars float64 in 0..1."""
        return accuracy(self.sums, self.threshold)


def right_sums(boxes: Tensor, target: Tensor, threshold: float) -> Tensor:
    """What sums up over sentences: float64 `[N, 3]`, whether a box is right, its IoU, and 1.

    Args:
        boxes, target: as in `BoxAccuracy.update`.
    """
    if boxes.shape != target.shape:
        raise ValueError(
            f"{len(boxes)} boxes were predicted for {len(target)} sentences; "
            "predict one box per sentence, zeros where there is none"
        )
    # float64, so that an IoU of exactly the threshold is not lost to rounding
    boxes, target = boxes.to(target.device).double(), target.double()
    ious = box_iou(boxes, target).diagonal().nan_to_num()  # 0/0: both boxes are empty
    return torch.stack([(ious >= threshold).double(), ious, torch.ones_like(ious)], dim=1)


def accuracy(sums: Tensor, threshold: float) -> dict[str, Tensor]:
    """Acc and mean IoU of summed `right_sums` `[..., 3]`: float64 `[...]` each, 0 without any sentence."""
    right, iou, total = sums.unbind(-1)
    total = total.clamp(min=1)
    return {f"Acc@{threshold:g}": right / total, "mean_IoU": iou / total}


class ReferredBoxes(Metric):
    """`BoxAccuracy` of the sentences that mean one object; in data with others also `GeneralizedBoxes`.

    Args:
        threshold: as of `BoxAccuracy`.
    """

    full_state_update = False
    others: Tensor  # int64 [], sentences that mean several objects or none

    def __init__(self, threshold: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.one = BoxAccuracy(threshold, **kwargs)
        self.any_number = GeneralizedBoxes(**kwargs)
        self.add_state("others", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, boxes: Tensor, target: Tensor) -> None:
        """One sentence: the boxes `[N, 4]` found, without empty ones, and those that it means, `[M, 4]`."""
        self.any_number.update(boxes, target)
        self.others += len(target) != 1
        if len(target) == 1:
            self.one.update(boxes[:1] if len(boxes) else torch.zeros_like(target), target)

    def compute(self) -> dict[str, Tensor]:
        """Scalars float64 in 0..1, NaN where the data do not define one."""
        return self.one.compute() | (self.any_number.compute() if self.others else {})


class GroundingAccuracy(MetricCallback):
    """Acc@0.5 (an IoU of exactly 0.5 is right) and mean_IoU, every sentence counting once.

    An answer without a box counts as wrong. Where sentences mean several objects or none, they are counted
    by N-acc, T-acc and F1=1@0.5 (`GeneralizedBoxes`).

    Args:
        threshold: IoU from which on a box is right.
        headline: as in `MetricCallback`.
    """

    kind: ClassVar[Kind | None] = Referred()
    shown = ("mean_IoU",)

    def __init__(self, threshold: float = 0.5, headline: str | None = None) -> None:
        self.headline = f"Acc@{threshold:g}"
        super().__init__(headline)
        self.threshold = threshold

    def make_metric(self, classes: tuple[str, ...]) -> ReferredBoxes:
        return ReferredBoxes(self.threshold, sync_on_compute=False)

    def record(self, prediction: Prediction, target: Target, classes: tuple[str, ...]) -> Record:
        (annotated,) = required(target, "boxes")
        boxes = annotated.new_zeros(0, 4) if prediction.boxes is None else prediction.boxes
        return boxes[(boxes[:, 2:] > boxes[:, :2]).all(1)], annotated
