"""Visual grounding (REC): the box of what a text refers to, answered as `cx,cy,w,h` (paper section 3.3).

The centre is written relative to the image's middle; what cannot be parsed is the zero box.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ufo.ops.boxes import decode_boxes, encode_boxes
from ufo.tasks.base import Answers, Supervision, Task
from ufo.tasks.detection import parse_box
from ufo.types import Batch, Prediction


@dataclass(kw_only=True)
class Grounding(Task):
    """One box per expression."""

    name: ClassVar[str] = "grounding"
    needs_text: ClassVar[bool] = True

    num_bins: int
    max_length: int = 20

    def prompt(self, classes, text) -> str:
        return f"Task: grounding; Description: {text}"

    def supervise(self, batch: Batch, grid) -> Supervision:
        size = tuple(batch.images.shape[-2:])
        boxes = torch.stack([b[0] for b in batch.boxes])  # [B, 4]
        bins = encode_boxes(boxes, size, self.num_bins)
        return Supervision([",".join(map(str, box)) for box in bins.tolist()])

    def parse(self, answers: Answers) -> Prediction:
        device = answers.scores.device
        bins = parse_box(answers.texts[0].split(","))
        boxes = torch.zeros(1, 4, device=device)
        if bins is not None:
            boxes = decode_boxes(torch.tensor([bins], device=device), answers.size, self.num_bins)
        return Prediction(
            self.name,
            boxes=boxes,
            scores=answers.scores,
            text=answers.texts[0],
        )
