"""Referring segmentation (RES): the mask of what a text refers to, one answer per image (paper section 3.2).

The answer holds `mask_tokens` mask tokens inside a sentence; fewer are no mask, of more the first ones count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from ufo.kinds import Kind, Referred
from ufo.ops.grid import Queries
from ufo.ops.masks import largest_parts, mask_boxes
from ufo.tasks.base import Answers, Asked, Task, batch_generator
from ufo.types import MASK_TOKEN, Batch, Prediction, given


@dataclass(kw_only=True)
class ReferringSegmentation(Task):
    """One mask per expression."""

    name: ClassVar[str] = "referring_segmentation"
    kind: ClassVar[Kind] = Referred(masks=True)
    needs_text: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"expression", "masks"})

    mask_tokens: int = 16
    mask_threshold: float = 0.5
    largest_parts: int = 0  # connected parts of a mask that are kept, the largest ones; 0: all

    @property
    def drafts(self) -> tuple[str, ...]:
        mask = MASK_TOKEN * self.mask_tokens
        return tuple(template.format(mask=mask) for template in self.wording.mask_answers)

    def prompt(self, classes: Sequence[str], text: str, generator: torch.Generator | None = None) -> str:
        return self.wording.ask(self.name, generator, text=text)

    def supervise(self, batch: Batch, grid: Queries | None) -> Asked:
        generator = batch_generator(batch)
        answers = [self.wording.write_mask(self.mask_tokens, generator) for _ in batch.texts]
        masks = given(batch.masks, "masks")
        return Asked(
            self.prompts(batch, training=True),
            answers=answers,
            # several objects that one expression means are one mask, none is an empty one
            masks=torch.stack([m.any(0).to(torch.uint8) for m in masks]),
            mask_counts=[1] * len(batch),
        )

    def parse(self, answers: Answers) -> Prediction:
        """One mask `[1, H, W]` and the box around it, both empty where there are too few mask tokens."""
        device = answers.scores.device
        if answers.mask_counts[0] < self.mask_tokens:
            masks = torch.zeros(1, *answers.size, dtype=torch.bool, device=device)
        else:
            masks = (
                answers.retrieve_masks(torch.zeros(1, dtype=torch.int64, device=device)) > self.mask_threshold
            )
            if self.largest_parts:
                masks = largest_parts(masks, self.largest_parts)
        return Prediction(self.name, mask_boxes(masks), answers.scores, masks=masks, text=answers.texts[0])
