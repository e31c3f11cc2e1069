"""One referred object: the box or the mask of what a text means (grounding, referring segmentation).

An answer may hold none: a box of zeros, an empty mask. Shapes: `H W` pixels of the original image; boxes are
xyxy in its pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou

from ufo.kinds.base import ImageInfo, Kind, Shown, Usual
from ufo.kinds.coco import scaled_boxes, scaled_rle
from ufo.kinds.compared import EXTRA, MISSED, POOR, Compared
from ufo.kinds.found import Found
from ufo.kinds.marks import REFERRED, Marks
from ufo.kinds.objects import filled
from ufo.kinds.overlays import REFERRED_TO, box_layers, mask_layers
from ufo.ops.masks import mask_boxes, rle_decode
from ufo.ops.overlap import mask_overlap
from ufo.types import Prediction, Target, given


@dataclass(frozen=True, kw_only=True)
class Referred(Kind):
    """What a text refers to: a box, or with `masks` a mask.

    Args:
        asked: what the text is called in tables.
    """

    asked: str = "expression"

    def records(
        self, prediction: Prediction, image: ImageInfo, predicted_size: tuple[int, int], text: str = ""
    ) -> list[dict[str, Any]]:
        """One record per box, or one with zeros if the answer holds none, and the mask of a segmentation."""
        boxes = scaled_boxes(given(prediction.boxes, "boxes"), predicted_size, image.size)
        scores = [round(score, 5) for score in given(prediction.scores, "scores").tolist()]
        head: dict[str, Any] = {**image.head, "text": text}
        tail: dict[str, Any] = {"answer": prediction.text}
        if prediction.presence is not None:
            tail["presence"] = round(prediction.presence.item(), 5)
        records = [
            {**head, "bbox": box, "score": score, **tail} for box, score in zip(boxes, scores, strict=True)
        ]
        if prediction.masks is not None:
            for record, mask in zip(records, prediction.masks, strict=True):
                record["segmentation"] = scaled_rle(mask, image.size)
        found = [record for record, some in zip(records, self._where(prediction), strict=True) if some]
        return found or records[:1]

    def found(self, prediction: Prediction, text: str = "") -> Iterator[Found]:
        """The objects of the answer, if it holds any; they are called what the text says."""
        boxes = self._boxes(prediction).tolist()
        scores = [None] * len(boxes) if prediction.scores is None else prediction.scores.tolist()
        for i, (x1, y1, x2, y2) in enumerate(boxes):
            if x2 > x1 and y2 > y1:
                mask = None if prediction.masks is None else prediction.masks[i]
                yield Found(text or prediction.text, (x1, y1, x2, y2), score=scores[i], mask=mask)

    def summary(self, prediction: Prediction, min_score: float, text: str = "") -> str:
        found, there = self._where(prediction), ""
        if prediction.presence is not None:
            there = f"; {prediction.presence.item():.0%} that it is there"
            if not any(found):  # refused, also where the text would have named a place
                said = f'; the answer was "{prediction.text}"' if prediction.text else ""
                return f'"{text}": nothing{there}{said}'
        if not any(found):
            return f'"{text}": no {self._what} in the answer "{prediction.text}"'
        score = given(prediction.scores, "scores")[0].item()
        places = [self._place(prediction, i) for i, some in enumerate(found) if some]
        return f'"{text}" at {" and at ".join(places)} (score {score:.2f}{there})'

    def _place(self, prediction: Prediction, i: int) -> str:
        x1, y1, x2, y2 = given(prediction.boxes, "boxes")[i].tolist()
        where = f"x {x1:.0f}, y {y1:.0f}, width {x2 - x1:.0f}, height {y2 - y1:.0f}"
        return where if prediction.masks is None else f"{where}, {int(prediction.masks[i].sum())} pixels"

    def in_words(self, prediction: Prediction, target: Target, classes: tuple[str, ...]) -> tuple[str, str]:
        boxes = [] if target.boxes is None else target.boxes.tolist()
        truth = "; ".join(",".join(f"{v:.0f}" for v in box) for box in boxes)
        return prediction.text, f"{target.text}: {truth}" if target.text else truth

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.asked, "answer", "IoU")

    def row(self, prediction: Prediction, target: Target) -> list[Any]:
        return [target.text, prediction.text, self.score(prediction, target, ()) or 0.0]

    def predicted(self, prediction: Prediction, shown: Shown) -> Marks:
        """The object whatever its score."""
        marks = Marks(notes=shown.notes, dashed=None if shown.target is None else shown.target.boxes)
        boxes = self._boxes(prediction)
        scores = torch.ones(len(boxes)) if prediction.scores is None else prediction.scores.float()
        keep = _has_area(boxes).nonzero()[:, 0]
        marks.boxes, marks.colors = boxes[keep], [REFERRED] * len(keep)
        marks.names, marks.scores = [""] * len(keep), scores[keep].tolist()
        marks.masks = None if prediction.masks is None else prediction.masks[keep]
        return marks

    def note(self, prediction: Prediction, target: Target) -> str:
        iou = self.score(prediction, target, ())
        if iou is None:
            return ""
        if not any(self._where(prediction)):
            return f"no {self._what} in the answer {prediction.text!r}"
        return f"IoU {iou:.2f}"

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
            found = prediction.boxes, None, prediction.scores
            layers = box_layers(found, (target.boxes, None), {0: REFERRED_TO})
        if prediction.masks is None:
            return layers
        truth = None if target.masks is None else _joined(target).to(torch.uint8)
        return layers | mask_layers(prediction.masks.any(0).to(torch.uint8), truth, (), size)

    def score(self, prediction: Prediction, target: Target, classes: tuple[str, ...]) -> float | None:
        """The IoU; 1 where nothing was to be found and nothing was.

        Of several boxes the mean over the annotated ones, or over the predicted ones if these are more.
        """
        if self.masks:
            if target.masks is None or prediction.masks is None:
                return None
            ignore = None if target.ignore is None else rle_decode([target.ignore], target.size)[0]
            intersection, union = mask_overlap(prediction.masks.any(0), _joined(target), ignore).tolist()
            return intersection / union if union else 1.0
        if target.boxes is None or (not len(target.boxes) and prediction.presence is None):
            return None
        boxes = self._boxes(prediction).float().cpu()
        found = boxes[_has_area(boxes)]
        if not len(target.boxes) or not len(found):
            return float(len(found) == len(target.boxes))
        best = box_iou(found, target.boxes.float().cpu()).max(0).values
        return float(best.sum()) / max(len(found), len(target.boxes))

    def compare(
        self, prediction: Prediction, target: Target, classes: tuple[str, ...], certain: float = 0.3
    ) -> Compared:
        """Missed, found where nothing is, or with an IoU that may be poor; it has no class."""
        found = super().compare(prediction, target, classes, certain)
        there = bool(len(target.boxes)) if target.boxes is not None else bool(target.masks)
        said = bool(_has_area(self._boxes(prediction)).any())
        what = (POOR if there else EXTRA) if said else MISSED
        found.faults = [(what, name) for _, name in found.faults]
        return found

    def trivial(self, usual: Usual, size: tuple[int, int]) -> dict[str, Any]:
        """The mean box, or a mask that fills it."""
        boxes = usual.pixels(size)
        answer: dict[str, Any] = {"boxes": boxes, "scores": torch.ones(1)}
        return answer | ({"masks": filled(boxes, size)} if self.masks else {})

    @property
    def _what(self) -> str:
        return "mask" if self.masks else "box"

    def _boxes(self, prediction: Prediction) -> Tensor:
        """Around the mask of a segmentation, else the answer's box: `[0, 4]` or `[1, 4]`."""
        if prediction.masks is not None:
            return mask_boxes(prediction.masks.bool())
        return torch.zeros(0, 4) if prediction.boxes is None else prediction.boxes

    def _where(self, prediction: Prediction) -> list[bool]:
        """Which of the boxes are found ones: those of nothing are zeros."""
        return _has_area(self._boxes(prediction)).tolist()


def _has_area(boxes: Tensor) -> Tensor:
    """Which boxes `[N, 4]` are not empty: bool `[N]`."""
    return (boxes[:, 2:] > boxes[:, :2]).all(1)


def _joined(target: Target) -> Tensor:
    """All masks of a target as one, bool `[H, W]`: a text may mean several objects, or none."""
    return rle_decode(given(target.masks, "masks"), target.size).any(0)
