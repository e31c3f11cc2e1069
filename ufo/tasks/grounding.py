"""Visual grounding (REC): the box of what a text refers to, answered as its `cx,cy,w,h` (paper section 3.3).

All four in bins of the image; what cannot be parsed is the zero box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from ufo.kinds import Kind, Referred
from ufo.ops.boxes import decode_boxes, encode_boxes
from ufo.ops.grid import Queries
from ufo.tasks.base import Answers, Asked, Fields, Task
from ufo.types import Batch, Prediction, given


@dataclass(kw_only=True)
class Grounding(Task):
    """One box per expression."""

    name: ClassVar[str] = "grounding"
    kind: ClassVar[Kind] = Referred()
    needs_text: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"expression", "boxes"})

    num_bins: int
    max_length: int = 20

    def prompt(self, classes: Sequence[str], text: str, generator: torch.Generator | None = None) -> str:
        return self.wording.ask(self.name, generator, text=text)

    def grammar(self, classes: Sequence[str]) -> tuple[Fields, ...]:
        return (self.wording.box_grammar(self.num_bins),)

    def supervise(self, batch: Batch, grid: Queries | None) -> Asked:
        boxes = torch.stack([b[0] for b in given(batch.boxes, "boxes")])  # [B, 4]
        bins = encode_boxes(boxes, batch.image_size, self.num_bins)
        answers = [self.wording.write_box(box) for box in bins.tolist()]
        return Asked(self.prompts(batch, training=True), answers=answers)

    def parse(self, answers: Answers) -> Prediction:
        device = answers.scores.device
        bins = self.wording.read_box(answers.texts[0])
        boxes = torch.zeros(1, 4, device=device)
        if bins is not None:
            boxes = decode_boxes(torch.tensor([bins], device=device), answers.size, self.num_bins)
        return Prediction(
            self.name,
            boxes=boxes,
            scores=answers.scores,
            text=answers.texts[0],
        )
