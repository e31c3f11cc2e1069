"""What is drawn on one image, of a prediction and of ground truth alike (`ufo.draw` paints it).

Shapes: N objects, `H W` pixels of the image; boxes are xyxy in its pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ufo.ops.masks import mask_boxes, rle_decode
from ufo.types import Target

REFERRED = 6
"""Index of the colour (yellow) of what a text refers to."""


@dataclass
class Marks:
    """What is drawn on one image."""

    boxes: Tensor = field(default_factory=lambda: torch.zeros(0, 4))  # float32 [N, 4]
    colors: list[int] = field(default_factory=list)  # N colour indices
    names: list[str] = field(default_factory=list)  # N, "" where an object has no class
    scores: list[float] = field(default_factory=list)  # N, or none of what is annotated
    rows: list[int] = field(default_factory=list)  # N, the answers they were read from, or none if unknown
    masks: Tensor | None = None  # bool or uint8 [N, H, W]
    semantic: Tensor | None = None  # integer [H, W], class index or IGNORE
    notes: list[str] = field(default_factory=list)  # paragraphs below the image
    hidden: str = ""  # what is not drawn
    dashed: Tensor | None = None  # float32 [M, 4], more boxes, without labels

    @property
    def labels(self) -> list[str]:
        """N texts at the objects: names, and scores where there are some."""
        if not self.scores:
            return self.names
        pairs = zip(self.names, self.scores, strict=True)
        return [f"{name} {score:.2f}".strip() for name, score in pairs]


def annotated(target: Target, classes: tuple[str, ...]) -> Marks:
    """Marks of everything that a target holds."""
    marks = Marks(semantic=target.semantic, notes=list(target.captions or []))
    if target.text:
        marks.notes = [target.text]
    marks.notes += [f"answer: {answer}" for answer in dict.fromkeys(target.answers or [])]
    if target.masks is not None:
        marks.masks = rle_decode(target.masks, target.size)
    if marks.masks is not None:
        marks.boxes = mask_boxes(marks.masks.bool())
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


def class_name(label: int, classes: Sequence[str]) -> str:
    """The name of a label; its number where there is none."""
    return classes[label] if 0 <= label < len(classes) else str(label)
