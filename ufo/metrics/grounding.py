"""Visual grounding: how many sentences' boxes are right (docs/published_system.md#box-accuracy)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric
from torchvision.ops import box_iou

from ufo.kinds import Kind, Referred
from ufo.metrics.base import MetricCallback, Record, required
from ufo.types import Prediction, Target


class BoxAccuracy(Metric):
    """`Acc@<threshold>`, the share of boxes with IoU >= threshold, and `mean_IoU`.

    Args:
        threshold: an IoU equal to it counts as right.
    """

    full_state_update = False
    higher_is_better = True
    right: Tensor
    iou_sum: Tensor
    total: Tensor

    def __init__(self, threshold: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = threshold
        for state in ("right", "iou_sum", "total"):
            self.add_state(state, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, boxes: Tensor, target: Tensor) -> None:
        """Compare box by box.

        Args:
            boxes: `[N, 4]` xyxy, original pixels; zeros where no box was found.
            target: `[N, 4]` xyxy, original pixels.

        Raises:
            ValueError: the numbers of boxes differ.
        """
        if boxes.shape != target.shape:
            raise ValueError(
                f"{len(boxes)} boxes were predicted for {len(target)} sentences; "
                "predict one box per sentence, zeros where there is none"
            )
        # float64, so that an IoU of exactly the threshold is not lost to rounding
        boxes, target = boxes.to(target.device).double(), target.double()
        ious = box_iou(boxes, target).diagonal().nan_to_num()  # 0/0: both boxes are empty
        self.right += (ious >= self.threshold).sum()
        self.iou_sum += ious.sum()
        self.total += len(ious)

    def compute(self) -> dict[str, Tensor]:
        """Scalars float64 in 0..1."""
        total = self.total.clamp(min=1)
        return {f"Acc@{self.threshold:g}": self.right / total, "mean_IoU": self.iou_sum / total}


class GroundingAccuracy(MetricCallback):
    """Acc@0.5 (an IoU of exactly 0.5 is right) and mean_IoU, every sentence counting once.

    An answer without a box counts as wrong.

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

    def make_metric(self, classes: tuple[str, ...]) -> BoxAccuracy:
        return BoxAccuracy(self.threshold, sync_on_compute=False)

    def record(self, prediction: Prediction, target: Target, classes: tuple[str, ...]) -> Record:
        (annotated,) = required(target, "boxes")
        boxes = prediction.boxes
        if boxes is None or len(boxes) == 0:
            boxes = annotated.new_zeros(len(annotated), 4)
        return boxes, annotated
