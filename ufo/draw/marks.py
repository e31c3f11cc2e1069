"""What is drawn on one image, of a prediction and of ground truth alike.

Shapes: N objects, `H W` pixels of the image; boxes are xyxy in its pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torchvision.ops import box_iou, masks_to_boxes

from ufo.ops.masks import rle_decode
from ufo.types import Prediction, Target

REFERRED = 6  # yellow: the box of an expression


@dataclass
class Marks:
    """What is drawn on one image, of a prediction and of ground truth alike."""

    boxes: Tensor = field(default_factory=lambda: torch.zeros(0, 4))  # float32 [N, 4]
    colors: list[int] = field(default_factory=list)  # N colour indices
    names: list[str] = field(default_factory=list)  # N texts on the labels
    masks: Tensor | None = None  # bool or uint8 [N, H, W]
    semantic: Tensor | None = None  # integer [H, W], class index or IGNORE
    notes: list[str] = field(default_factory=list)  # paragraphs below the image
    hidden: str = ""  # what is not drawn
    dashed: Tensor | None = None  # float32 [M, 4], more boxes, without labels


def predicted(
    prediction: Prediction, classes: tuple[str, ...], text: str, min_score: float, max_objects: int
) -> Marks:
    """Marks of a prediction on the CPU: its best objects, best first."""
    marks = Marks(semantic=prediction.semantic)
    if prediction.task == "caption":
        marks.notes = [prediction.text]
    elif text:
        marks.notes = [text]
    if prediction.task == "vqa":
        marks.notes.append(f"answer: {prediction.text}")
    if prediction.boxes is None and prediction.masks is None:
        return marks
    boxes = prediction.boxes
    if prediction.masks is not None:
        boxes = mask_boxes(prediction.masks)
    scores = prediction.scores if prediction.scores is not None else torch.ones(len(boxes))
    scores = scores.float()
    if prediction.labels is None:  # what an expression means: one box or mask, whatever its score
        keep = ((boxes[:, 2:] > boxes[:, :2]).all(1)).nonzero()[:, 0]
        marks.boxes, marks.colors = boxes[keep], [REFERRED] * len(keep)
        marks.names = [f"{s:.2f}" for s in scores[keep].tolist()]
        marks.masks = None if prediction.masks is None else prediction.masks[keep]
        return marks
    order = scores.argsort(descending=True, stable=True)
    keep = order[scores[order] >= min_score][:max_objects]
    marks.boxes, marks.colors = boxes[keep], prediction.labels[keep].tolist()
    named = zip(marks.colors, scores[keep].tolist(), strict=True)
    marks.names = [f"{class_name(label, classes)} {score:.2f}" for label, score in named]
    marks.masks = None if prediction.masks is None else prediction.masks[keep]
    if hidden := len(boxes) - len(keep):
        below = int((scores < min_score).sum())
        reason = f"scores below {min_score:g}" if below == hidden else "lower scores"
        marks.hidden = f"{hidden} more with {reason}"
    return marks


def annotated(target: Target, classes: tuple[str, ...]) -> Marks:
    """Marks of ground truth."""
    marks = Marks(semantic=target.semantic, notes=list(target.captions or []))
    if target.text:
        marks.notes = [target.text]
    marks.notes += [f"answer: {answer}" for answer in dict.fromkeys(target.answers or [])]
    if target.masks is not None:
        marks.masks = rle_decode(target.masks, target.size)
    if marks.masks is not None:
        marks.boxes = mask_boxes(marks.masks)
    elif target.boxes is not None:
        marks.boxes = target.boxes
    marks.colors, marks.names = [REFERRED] * len(marks.boxes), [""] * len(marks.boxes)
    if target.labels is not None:
        marks.colors = target.labels.tolist()
        marks.names = [class_name(label, classes) for label in marks.colors]
    if target.iscrowd is not None:
        crowd = target.iscrowd.tolist()
        marks.names = [n + " (crowd)" * c for n, c in zip(marks.names, crowd, strict=True)]
    return marks


def referred_note(prediction: Prediction, target: Target) -> str:
    """How well one box or mask fits what an expression means; "" for other tasks."""
    if prediction.masks is not None and prediction.labels is None and target.masks is not None:
        found, wanted = prediction.masks.bool().any(0), rle_decode(target.masks, target.size).any(0)
        if not found.any():
            return f"no mask in the answer {prediction.text!r}"
        return f"IoU {float((found & wanted).sum() / (found | wanted).sum()):.2f}"
    if prediction.task != "grounding" or target.boxes is None or not len(target.boxes):
        return ""
    box = prediction.boxes
    if box is None or not len(box) or not (box[0, 2:] > box[0, :2]).all():
        return f"no box in the answer {prediction.text!r}"
    return f"IoU {float(box_iou(box[:1].float(), target.boxes[:1].float())):.2f}"


def mask_boxes(masks: Tensor) -> Tensor:
    """Boxes `[N, 4]` around masks `[N, H, W]`; zeros if empty, which torchvision refuses."""
    boxes = torch.zeros(len(masks), 4)
    visible = masks.bool().flatten(1).any(1)
    if visible.any():
        boxes[visible] = masks_to_boxes(masks[visible])
    return boxes


def class_name(label: int, classes: Sequence[str]) -> str:
    return classes[label] if 0 <= label < len(classes) else str(label)
