"""COCO average precision of boxes and masks, by pycocotools' own evaluator.

See docs/published_system.md#average-precision.
Shapes: N predicted objects, M annotated objects of one image; boxes are xyxy in original pixels,
masks are COCO RLE dicts at the original size.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor
from torchvision.ops import box_convert

from ufo.metrics.examples import ExampleMetric

Shapes = Tensor | Sequence[Any]

_HEADLINE_DETECTIONS = 100  # COCOeval.summarize reports AP at this many detections per image
_NAMES = ("mAP", "mAP50", "mAP75", "mAP_small", "mAP_medium", "mAP_large")


@dataclass(eq=False)  # hashable by identity, which torchmetrics asks of a state's elements
class _Image:
    size: tuple[int, int]  # height, width; (0, 0) where it does not matter
    detections: list[dict[str, Any]]
    annotations: list[dict[str, Any]]


class CocoAP(ExampleMetric):
    """mAP, mAP50, mAP75 and mAP_small/medium/large, as `COCOeval` gives them.

    Drives `COCOeval` itself instead of torchmetrics' `MeanAveragePrecision`, whose numbers differ:
    with masks it leaves out images without annotations together with the false positives on them;
    its default IoU and recall thresholds are rounded to float32; an annotated area of 0 is
    replaced. It also takes masks only as bitmaps, which is gigabytes for a data set.

    `max_detections` are the reference's: AP counts the best 100 detections of an image and class,
    all other values the best 1000. A value without any annotation in its size range is -1, COCO's
    way of saying undefined.

    Args:
        iou_type: "bbox" compares boxes, "segm" masks.
        classes: the names of the labels, in order.
        max_detections: three numbers, 100 among them.
        per_class: also give `mAP/<class>`.

    Raises:
        ValueError: `max_detections` is not three numbers with 100 among them.
    """

    def __init__(
        self,
        iou_type: Literal["bbox", "segm"],
        classes: Sequence[str],
        max_detections: Sequence[int] = (100, 300, 1000),
        per_class: bool = False,
    ) -> None:
        super().__init__()
        if len(max_detections) != 3 or _HEADLINE_DETECTIONS not in max_detections:
            raise ValueError(
                f"max_detections is {list(max_detections)}; give three numbers with "
                f"{_HEADLINE_DETECTIONS} among them, at which COCO's headline AP is defined"
            )
        self.iou_type = iou_type
        self.classes = tuple(classes)
        self.max_detections = sorted(max_detections)
        self.per_class = per_class

    def update(
        self,
        shapes: Shapes,
        scores: Tensor,
        labels: Tensor,
        target_shapes: Shapes,
        target_labels: Tensor,
        iscrowd: Tensor | None = None,
        area: Tensor | None = None,
    ) -> None:
        """Add one image.

        Args:
            shapes: predicted boxes float `[N, 4]`, or N RLE dicts; a list of boxes holds COCO's own
                `[x, y, width, height]`, which are compared as they are.
            scores: float `[N]`.
            labels: int `[N]`.
            target_shapes: annotated boxes float `[M, 4]`, or M RLE dicts, or a list of boxes.
            target_labels: int `[M]`.
            iscrowd: bool `[M]`, all False if missing.
            area: float `[M]` in pixels, from the annotation file; taken from the shapes if missing.

        Raises:
            ValueError: lengths differ, a label has no class, or masks of one image differ in size.
        """
        self._check_labels(labels)
        self._check_labels(target_labels)
        shapes, target_shapes = self._to_coco(shapes), self._to_coco(target_shapes)
        size = _common_size([*shapes, *target_shapes]) if self.iou_type == "segm" else (0, 0)
        areas = [self._area(s) for s in target_shapes] if area is None else area.tolist()
        crowds = [False] * len(target_shapes) if iscrowd is None else iscrowd.tolist()
        key = self._key
        detections = [
            {key: shape, "score": score, "category_id": label}
            for shape, score, label in zip(shapes, scores.double().tolist(), labels.tolist(), strict=True)
        ]
        annotations = [
            {key: shape, "category_id": label, "iscrowd": int(crowd), "area": size}
            for shape, label, crowd, size in zip(
                target_shapes, target_labels.tolist(), crowds, areas, strict=True
            )
        ]
        self.examples.append(_Image(size, detections, annotations))

    def compute(self) -> dict[str, Tensor]:
        """Scalars float64: `mAP` ... `mAP_large`, and `mAP/<class>` if asked for; NaN without any object."""
        return self.values(self.evaluated())

    def evaluated(self) -> COCOeval:
        """pycocotools' evaluator after its work, with the matches of each image in `evalImgs`."""
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress
            evaluator = COCOeval(*self._databases(), iouType=self.iou_type)
            evaluator.params.maxDets = self.max_detections
            evaluator.evaluate()
            evaluator.accumulate()
            evaluator.summarize()
        return evaluator

    def values(self, evaluator: COCOeval) -> dict[str, Tensor]:
        """What `compute` gives of an evaluator that has done its work."""
        values = dict(zip(_NAMES, evaluator.stats[: len(_NAMES)], strict=True))
        if self.per_class:
            values |= self._class_values(evaluator)
        # pycocotools says -1 where there is nothing to measure on, which would pass for a number
        values = {name: math.nan if value == -1 else value for name, value in values.items()}
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}

    @property
    def _key(self) -> str:
        return "bbox" if self.iou_type == "bbox" else "segmentation"

    def _to_coco(self, shapes: Shapes) -> list[Any]:
        if not isinstance(shapes, Tensor):
            return list(shapes)
        return box_convert(shapes.reshape(-1, 4).double(), "xyxy", "xywh").tolist()

    def _check_labels(self, labels: Tensor) -> None:
        """Raise for labels that COCOeval would leave out without a word."""
        if labels.numel() and not 0 <= labels.min() <= labels.max() < len(self.classes):
            raise ValueError(
                f"labels go from {labels.min()} to {labels.max()} but there are "
                f"{len(self.classes)} classes; map them to 0..{len(self.classes) - 1}"
            )

    def _area(self, shape: Any) -> float:
        if self.iou_type == "segm":
            return float(coco_mask.area(shape))
        return shape[2] * shape[3]

    def _databases(self) -> tuple[COCO, COCO]:
        """Annotations and detections of all images, numbered in the order they came."""
        truth, empty = COCO(), COCO()
        truth.dataset = {
            "info": {},
            "images": [
                {"id": i, "height": image.size[0], "width": image.size[1]}
                for i, image in enumerate(self.examples)
            ],
            "categories": [{"id": i, "name": name} for i, name in enumerate(self.classes)],
            "annotations": [
                {**annotation, "image_id": i}
                for i, image in enumerate(self.examples)
                for annotation in image.annotations
            ],
        }
        # ids start at 1: COCOeval takes a match with annotation 0 for no match
        for number, annotation in enumerate(truth.dataset["annotations"], start=1):
            annotation["id"] = number
        truth.createIndex()
        detections = [
            {**detection, "image_id": i}
            for i, image in enumerate(self.examples)
            for detection in image.detections
        ]
        empty.dataset = {**truth.dataset, "annotations": []}
        empty.createIndex()
        # loadRes fails on an empty list
        return truth, truth.loadRes(detections) if detections else empty

    def _class_values(self, evaluator: COCOeval) -> dict[str, float]:
        """AP of each class, all sizes, at the headline number of detections; -1 where undefined."""
        # [IoU thresholds, recalls, classes, areas, max detections]
        precision = torch.from_numpy(evaluator.eval["precision"])
        at = self.max_detections.index(_HEADLINE_DETECTIONS)
        per_class = precision[:, :, :, 0, at].flatten(0, 1).mean(0)  # a class is -1 all over or nowhere
        return {f"mAP/{name}": v for name, v in zip(self.classes, per_class.tolist(), strict=True)}


def judged(evaluator: COCOeval) -> tuple[Tensor, Tensor, Tensor]:
    """Every detection of an evaluator that has done its work, judged at IoU 0.5.

    Detections that COCOeval ignores, as those of crowds, are left out.

    Returns:
        The number of its image int64, its score float64, and whether it is matched, bool; `[N]` each.
    """
    images, areas = len(evaluator.params.imgIds), len(evaluator.params.areaRng)
    owners, scores, right = [torch.zeros(0)], [torch.zeros(0)], [torch.zeros(0)]
    for label in range(len(evaluator.params.catIds)):
        first = label * areas * images  # of objects of all sizes
        for image, result in enumerate(evaluator.evalImgs[first : first + images]):
            if result is not None and len(result["dtScores"]):
                counted = torch.from_numpy(np.asarray(result["dtIgnore"][0]) == 0)
                scores.append(torch.tensor(result["dtScores"], dtype=torch.float64)[counted])
                right.append(torch.from_numpy(np.asarray(result["dtMatches"][0]) != 0)[counted])
                owners.append(torch.full((len(scores[-1]),), image))
    return torch.cat(owners).long(), torch.cat(scores).double(), torch.cat(right) > 0


def _common_size(rles: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """The masks' (height, width); raise if they differ, for pycocotools would see no overlap."""
    sizes = {tuple(rle["size"]) for rle in rles} or {(0, 0)}
    if len(sizes) > 1:
        raise ValueError(
            f"masks of one image have sizes {sorted(sizes)} (height, width); bring predicted and "
            "annotated masks to the original image's size"
        )
    return sizes.pop()
