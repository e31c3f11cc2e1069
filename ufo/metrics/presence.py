"""Detection asked for classes that are not there: what is said to be present, how many boxes are invented.

A pair of image and class is one question. It is answered with "present" if the class has a detection whose
score reaches a threshold. Names that the model has never been asked for in training are counted apart.
Shapes: N predicted, M annotated objects of one image; boxes are xyxy in pixels.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric

from ufo.kinds import Kind, Objects
from ufo.metrics.base import MetricCallback, Record, required
from ufo.metrics.coco_ap import CocoAP
from ufo.types import Prediction, Target


class PresenceAccuracy(Metric):
    """`MCC`, `false_boxes`, `unseen_boxes` and `mAP_there`.

    MCC is Matthews' correlation of "present" as answered and as annotated over all images and classes, from
    -1 to 1; NaN where all classes are present or none. `false_boxes` is how many detections of absent classes
    reach the threshold, per image; `unseen_boxes` how many of `unseen` classes do, NaN where none is asked
    for. MCC and `false_boxes` leave these out. `mAP_there` is the mAP without detections of classes that are
    absent in their image: what lies between it and mAP is lost to invented objects. A class that has only
    crowd annotations in an image is no question there.

    Args:
        classes: the names of the labels, in order.
        threshold: the score from which on a detection counts.
        unseen: those of the classes that the model does not know and that are in no image.
    """

    full_state_update = False
    higher_is_better = True
    pairs: Tensor  # int64 [2, 2], pairs of image and class: annotated as present, answered so
    false_boxes: Tensor  # int64 []
    unseen_boxes: Tensor  # int64 []
    images: Tensor  # int64 []

    def __init__(
        self, classes: Sequence[str], threshold: float, unseen: Collection[str] = (), **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.threshold = threshold
        self.known = torch.tensor([name not in unseen for name in classes], dtype=torch.bool)
        self.there = CocoAP("bbox", classes)
        self.add_state("pairs", torch.zeros(2, 2, dtype=torch.int64), dist_reduce_fx="sum")
        for state in ("false_boxes", "unseen_boxes", "images"):
            self.add_state(state, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(
        self,
        boxes: Tensor,
        scores: Tensor,
        labels: Tensor,
        target_boxes: Tensor,
        target_labels: Tensor,
        iscrowd: Tensor | None = None,
        area: Tensor | None = None,
    ) -> None:
        """Add one image; the arguments are those of `CocoAP.update`."""
        crowd = torch.zeros(len(target_labels), dtype=torch.bool) if iscrowd is None else iscrowd.cpu().bool()
        present, asked = torch.zeros_like(self.known), self.known.clone()
        asked[target_labels[crowd]] = False
        present[target_labels[~crowd]] = asked[target_labels[~crowd]] = True
        said = torch.zeros_like(self.known)
        sure = scores >= self.threshold
        said[labels[sure]] = True
        kind = 2 * present[asked].long() + said[asked].long()
        self.pairs += kind.bincount(minlength=4).view(2, 2)
        self.false_boxes += int((sure & asked[labels] & ~present[labels]).sum())
        self.unseen_boxes += int((sure & ~self.known[labels]).sum())
        self.images += 1
        kept = present[labels] | (self.known & ~asked)[labels]
        self.there.update(boxes[kept], scores[kept], labels[kept], target_boxes, target_labels, iscrowd, area)

    def compute(self) -> dict[str, Tensor]:
        """Scalars float64."""
        (right_no, wrong_yes), (wrong_no, right_yes) = self.pairs.double()
        sums = (right_yes + wrong_yes, right_yes + wrong_no, right_no + wrong_yes, right_no + wrong_no)
        product = torch.stack(sums).prod().sqrt()
        # an answer that never changes has a correlation of 0; where nothing ever changes there is none
        defined = (right_yes + wrong_no > 0) & (right_no + wrong_yes > 0)
        mcc = (right_yes * right_no - wrong_yes * wrong_no) / product.clamp(min=1)
        images = self.images.clamp(min=1)
        unseen = self.unseen_boxes.double() / images
        return {
            "MCC": torch.where(defined, mcc, torch.nan),
            "false_boxes": self.false_boxes.double() / images,
            "unseen_boxes": torch.where(self.known.all(), torch.nan, unseen),
            "mAP_there": self.there.compute()["mAP"],
        }


class PresenceScores(MetricCallback):
    """What a detection says of classes that are not in the image; see `PresenceAccuracy`.

    A name is unseen where it is none of the classes that the model has been trained with (`UFO.classes`); the
    `also_ask` of a source brings such names along.

    Args:
        threshold: score from which on a detection counts.
        headline: as in `MetricCallback`.
    """

    kind: ClassVar[Kind | None] = Objects()
    lower_is_better: ClassVar[frozenset[str]] = frozenset({"false_boxes", "unseen_boxes"})
    headline = "MCC"
    shown = ("false_boxes", "unseen_boxes", "mAP_there")

    def __init__(self, threshold: float = 0.3, headline: str | None = None) -> None:
        super().__init__(headline)
        self.threshold = threshold
        self.trained: frozenset[str] | None = None  # names of classes; None: not known

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        classes = getattr(getattr(pl_module, "model", None), "classes", {})
        names = {name for known in classes.values() for name in known}
        self.trained = frozenset(map(str.casefold, names)) or None

    def make_metric(self, classes: tuple[str, ...]) -> PresenceAccuracy:
        known = self.trained
        unseen = [name for name in classes if known is not None and name.casefold() not in known]
        return PresenceAccuracy(classes, self.threshold, unseen, sync_on_compute=False)

    def record(self, prediction: Prediction, target: Target, classes: tuple[str, ...]) -> Record:
        predicted = required(prediction, "boxes", "scores", "labels")
        annotated = required(target, "boxes", "labels")
        return *predicted, *annotated, target.iscrowd, target.area
