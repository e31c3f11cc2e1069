"""Objects: boxes, or masks, with labels and scores (detection, instance segmentation).

Shapes: `N` objects, `H W` pixels of the original image; boxes are xyxy in its pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from pycocotools.mask import area
from torch import Tensor

from ufo.kinds.base import ImageInfo, Kind, Shown, Usual
from ufo.kinds.coco import box_of, category, scaled_boxes, scaled_rle
from ufo.kinds.compared import Compared, compare_objects
from ufo.kinds.found import Found
from ufo.kinds.marks import Marks, class_name
from ufo.kinds.overlays import box_layers, mask_layers, painted
from ufo.kinds.quality import MIN_SCORE, objects_score
from ufo.ops.masks import mask_boxes, rle_decode, rle_encode
from ufo.types import Prediction, Target, given

PARTS = ("boxes", "scores", "labels", "masks", "rows")
"""The fields of a `Prediction` that have one entry per object."""

LEAST = 0.05  # objects below it are left out of a report


@dataclass(frozen=True, kw_only=True)
class Objects(Kind):
    """Any number of objects, each with a class and a score; with `masks` each has a mask too."""

    def records(
        self, prediction: Prediction, image: ImageInfo, predicted_size: tuple[int, int], text: str = ""
    ) -> list[dict[str, Any]]:
        """One record per object."""
        boxes = scaled_boxes(given(prediction.boxes, "boxes"), predicted_size, image.size)
        scores = [round(score, 5) for score in given(prediction.scores, "scores").tolist()]
        labels = given(prediction.labels, "labels").tolist()
        objects = [
            {**image.head, **category(label, prediction), "bbox": box, "score": score}
            for label, box, score in zip(labels, boxes, scores, strict=True)
        ]
        if prediction.masks is not None:
            for record, mask in zip(objects, prediction.masks, strict=True):
                rle = scaled_rle(mask, image.size)
                record |= {"bbox": box_of(rle), "segmentation": rle}
        return objects

    def found(self, prediction: Prediction, text: str = "") -> Iterator[Found]:
        """All objects; the box of one with a mask is the one around it."""
        labels, scores = (
            given(prediction.labels, "labels").tolist(),
            given(prediction.scores, "scores").tolist(),
        )
        boxes = _boxes(prediction).tolist()
        for i, (label, score, (x1, y1, x2, y2)) in enumerate(zip(labels, scores, boxes, strict=True)):
            mask = None if prediction.masks is None else prediction.masks[i]
            yield Found(class_name(label, prediction.classes), (x1, y1, x2, y2), label, score, mask)

    def confident(self, prediction: Prediction, min_score: float) -> Prediction:
        scores = given(prediction.scores, "scores")
        order = scores.argsort(descending=True, stable=True)
        return select(prediction, order[scores[order] >= min_score])

    def best(self, prediction: Prediction, count: int) -> Prediction:
        scores = given(prediction.scores, "scores")
        if len(scores) <= count:
            return prediction
        return select(prediction, scores.topk(count).indices)

    def summary(self, prediction: Prediction, min_score: float, text: str = "") -> str:
        kept = self.confident(prediction, min_score)
        labels, scores = given(kept.labels, "labels"), given(kept.scores, "scores")
        hidden = len(given(prediction.labels, "labels")) - len(labels)
        line = _counts(labels, prediction.classes)
        if len(labels):
            line += f" (best score {scores[0].item():.2f})"
        return line + (f"; {hidden} more below {min_score:g}" if hidden else "")

    def in_words(self, prediction: Prediction, target: Target, classes: tuple[str, ...]) -> tuple[str, str]:
        found, truth = given(prediction.labels, "labels"), given(target.labels, "labels")
        return _counts(found, classes), _counts(truth, classes)

    def predicted(self, prediction: Prediction, shown: Shown) -> Marks:
        marks = Marks(notes=shown.notes)
        masks, boxes = prediction.masks, _boxes(prediction)
        scores = torch.ones(len(boxes)) if prediction.scores is None else prediction.scores.float()
        order = scores.argsort(descending=True, stable=True)
        keep = order[scores[order] >= shown.min_score][: shown.max_objects]
        marks.boxes, marks.colors = boxes[keep], given(prediction.labels, "labels")[keep].tolist()
        marks.names = [class_name(label, shown.classes) for label in marks.colors]
        marks.scores = scores[keep].tolist()
        marks.rows = [] if prediction.rows is None else prediction.rows[keep].tolist()
        marks.masks = None if masks is None else masks[keep]
        if hidden := len(boxes) - len(keep):
            below = int((scores < shown.min_score).sum())
            reason = f"scores below {shown.min_score:g}" if below == hidden else "lower scores"
            marks.hidden = f"{hidden} more with {reason}"
        marks.dashed = None if shown.target is None else shown.target.boxes
        return marks

    def overlays(
        self,
        prediction: Prediction,
        target: Target,
        classes: tuple[str, ...],
        size: tuple[int, int],
        min_score: float = 0.0,
    ) -> dict[str, Any]:
        layers: dict[str, Any] = {}
        if prediction.boxes is not None:
            found = prediction.boxes, prediction.labels, prediction.scores
            layers = box_layers(found, (target.boxes, target.labels), dict(enumerate(classes)))
        if prediction.masks is None:
            return layers
        masks, labels = prediction.masks, given(prediction.labels, "labels")
        if prediction.scores is not None:
            order = prediction.scores.argsort(stable=True)  # the best one is painted last
            order = order[prediction.scores[order] >= min_score]
            masks, labels = masks[order], labels[order]
        truth = None
        if target.masks is not None and target.labels is not None:
            truth = painted(rle_decode(target.masks, target.size), target.labels, target.size)
        return layers | mask_layers(painted(masks, labels, target.size), truth, classes, size)

    def score(self, prediction: Prediction, target: Target, classes: tuple[str, ...]) -> float | None:
        """Twice the matched IoU over the number of predicted and annotated objects."""
        wanted = target.masks if self.masks else target.boxes
        if wanted is None or target.labels is None:
            return None
        found = self.confident(prediction, MIN_SCORE)  # encoding hundreds of masks takes time
        shapes = rle_encode(given(found.masks, "masks")) if self.masks else given(found.boxes, "boxes").cpu()
        scores, labels = given(found.scores, "scores").cpu(), given(found.labels, "labels").cpu()
        return objects_score(shapes, scores, labels, wanted, target.labels, target.iscrowd)

    def compare(
        self, prediction: Prediction, target: Target, classes: tuple[str, ...], certain: float = 0.3
    ) -> Compared:
        """Objects of one class are matched from an IoU of 0.5 on, the best score first."""
        if (target.masks if self.masks else target.boxes) is None or target.labels is None:
            return Compared()
        found = self.confident(prediction, LEAST)
        shapes: Sequence[Any]
        wanted: Sequence[Any]
        labels = given(found.labels, "labels").tolist()
        truth = target.labels.tolist()
        if self.masks:
            shapes, wanted = rle_encode(given(found.masks, "masks")), given(target.masks, "masks")
            areas = [float(area(mask)) for mask in wanted]
        else:
            shapes, wanted = xywh(given(found.boxes, "boxes")), xywh(given(target.boxes, "boxes"))
            areas = [width * height for *_, width, height in wanted]
        return compare_objects(
            shapes,
            given(found.scores, "scores").tolist(),
            [class_name(label, classes) for label in labels],
            wanted,
            [class_name(label, classes) for label in truth],
            areas if target.area is None else target.area.tolist(),
            [False] * len(truth) if target.iscrowd is None else target.iscrowd.tolist(),
            certain,
        )

    def trivial(self, usual: Usual, size: tuple[int, int]) -> dict[str, Any]:
        """The most frequent class in the mean box."""
        boxes = usual.pixels(size)
        answer = {"boxes": boxes, "scores": torch.ones(1), "labels": torch.tensor([usual.label])}
        return answer | ({"masks": filled(boxes, size)} if self.masks else {})


def xywh(boxes: Tensor) -> list[list[float]]:
    """Boxes xyxy `[N, 4]` as COCO writes them."""
    return [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in boxes.float().tolist()]


def select(prediction: Prediction, keep: Tensor) -> Prediction:
    """The objects at indices `keep`."""
    parts = {name: getattr(prediction, name) for name in PARTS}
    return replace(prediction, **{n: v[keep] for n, v in parts.items() if v is not None})


def _boxes(prediction: Prediction) -> Tensor:
    """The boxes `[N, 4]`: those around the masks where there are masks."""
    if prediction.masks is None:
        return given(prediction.boxes, "boxes")
    return mask_boxes(prediction.masks.bool())


def filled(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks bool `[N, H, W]` that fill boxes `[N, 4]`."""
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.round().long().tolist(), strict=True):
        mask[y1:y2, x1:x2] = True
    return masks


def _counts(labels: Tensor, classes: tuple[str, ...]) -> str:
    counts = Counter(class_name(label, classes) for label in labels.tolist())
    return ", ".join(f"{n} {name}" for name, n in counts.items()) or "nothing"
