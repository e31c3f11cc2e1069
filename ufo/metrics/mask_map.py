"""COCO mask AP of instance segmentations (docs/published_system.md#average-precision)."""

from __future__ import annotations

from typing import ClassVar, Literal

from ufo.kinds import Kind, Objects
from ufo.metrics.base import Record, required
from ufo.metrics.box_map import BoxMAP
from ufo.ops.masks import rle_encode
from ufo.types import Prediction, Target


class MaskMAP(BoxMAP):
    """The values of `BoxMAP` for masks.

    Sizes of detections are their masks' areas; sizes of annotations are those of the annotation
    file, as in COCO's evaluation, or their masks' areas where the file has none.
    """

    kind: ClassVar[Kind | None] = Objects(masks=True)
    iou_type: ClassVar[Literal["bbox", "segm"]] = "segm"

    def record(self, prediction: Prediction, target: Target, classes: tuple[str, ...]) -> Record:
        masks, scores, labels = required(prediction, "masks", "scores", "labels")
        annotated = required(target, "masks", "labels")
        return rle_encode(masks), scores, labels, *annotated, target.iscrowd, target.area
