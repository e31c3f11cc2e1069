"""Referring segmentation (RES): the mask of what a text refers to, one answer per image (paper section 3.2).

The answer holds `mask_tokens` mask tokens inside a sentence; fewer are no mask, of more the first ones count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ufo.tasks.base import Answers, Supervision, Task, batch_generator
from ufo.tasks.wording.base import MASK_TOKEN
from ufo.types import Batch, Prediction


@dataclass(kw_only=True)
class ReferringSegmentation(Task):
    """One mask per expression."""

    name: ClassVar[str] = "referring_segmentation"
    needs_text: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"expression", "masks"})

    mask_tokens: int = 16
    mask_threshold: float = 0.5

    @property
    def drafts(self) -> tuple[str, ...]:
        mask = MASK_TOKEN * self.mask_tokens
        return tuple(template.format(mask=mask) for template in self.wording.mask_answers)

    def prompt(self, classes, text, generator=None) -> str:
        return self.wording.ask(self.name, generator, text=text)

    def supervise(self, batch: Batch, grid) -> Supervision:
        generator = batch_generator(batch)
        answers = [self.wording.write_mask(self.mask_tokens, generator) for _ in batch.texts]
        return Supervision(
            answers,
            # several objects that one expression means are one mask, none is an empty one
            masks=torch.stack([m.any(0).to(torch.uint8) for m in batch.masks]),
            mask_rows=torch.arange(len(batch)),
            mask_counts=[1] * len(batch),
        )

    def parse(self, answers: Answers) -> Prediction:
        """One mask `[1, H, W]` and the box around it, both empty where there are too few mask tokens."""
        device = answers.scores.device
        if answers.mask_counts[0] < self.mask_tokens:
            masks = torch.zeros(1, *answers.size, dtype=torch.bool, device=device)
        else:
            masks = answers.masks(torch.zeros(1, dtype=torch.int64, device=device)) > self.mask_threshold
        box = box_around(masks[0])
        return Prediction(self.name, box[None], answers.scores, masks=masks, text=answers.texts[0])


def box_around(mask: Tensor) -> Tensor:
    """The xyxy box `[4]` around a mask bool `[H, W]`, zeros for an empty one; never waits for the device."""
    edges = []
    for line in (mask.any(0), mask.any(1)):  # columns, rows
        first, last = line.int().argmax(), len(line) - line.flip(0).int().argmax()
        edges.append(torch.stack([first, last]) * line.any())
    return torch.stack(edges, 1).flatten().float()
