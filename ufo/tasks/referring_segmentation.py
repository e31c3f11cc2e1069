"""Referring segmentation (RES): the mask of what a text refers to, one answer per image (paper section 3.2).

The answer holds `mask_tokens` mask tokens inside a sentence; fewer are no mask, of more the first ones count.
Several masks (`max_objects`) are separated, from the left to the right of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ufo.kinds import Kind, Referred
from ufo.ops.grid import Queries
from ufo.ops.masks import inside, largest_parts, mask_boxes, soft_iou
from ufo.tasks.base import Answers, Asked, Said, batch_generator
from ufo.tasks.expression import Expressions
from ufo.types import MASK_TOKEN, Batch, Prediction, given


@dataclass(kw_only=True)
class ReferringSegmentation(Expressions):
    """One mask per expression; with `max_objects` one per object, the smallest of more share one."""

    name: ClassVar[str] = "referring_segmentation"
    kind: ClassVar[Kind] = Referred(masks=True)
    needs: ClassVar[frozenset[str]] = frozenset({"expression", "masks"})

    mask_tokens: int = 16
    mask_threshold: float = 0.5
    largest_parts: int = 0  # connected parts of a mask that are kept, the largest ones; 0: all

    def __post_init__(self) -> None:
        """Raises ValueError for numbers that are out of range, leave no room or form no square."""
        self.check_mask_tokens()
        super().__post_init__()

    @property
    def object_tokens(self) -> int:
        return self.mask_tokens

    def holds_objects(self, said: Said) -> bool:
        several = self.max_objects > 1
        return said.masks >= self.mask_tokens and not (several and said.masks % self.mask_tokens)

    def longest_answers(self, classes: Sequence[str]) -> tuple[str, ...]:
        mask = self.wording.separator.join([MASK_TOKEN * self.mask_tokens] * self.max_objects)
        return (max(self.wording.mask_answers, key=len).format(mask=mask),)

    @property
    def drafts(self) -> tuple[str, ...]:
        mask = MASK_TOKEN * self.mask_tokens
        return tuple(template.format(mask=mask) for template in self.wording.mask_answers)

    def supervise(self, batch: Batch, grid: Queries | None) -> Asked:
        generator = batch_generator(batch)
        masks = [self._listed(m) for m in given(batch.masks, "masks")]
        answers = [
            self.wording.write_mask(self.mask_tokens, generator, len(m)) if len(m) else self.wording.nothing
            for m in masks
        ]
        return Asked(
            self.prompts(batch, training=True),
            answers=answers,
            masks=torch.cat(masks),
            mask_counts=[len(m) for m in masks],
        )

    def _listed(self, masks: Tensor) -> Tensor:
        """The masks uint8 `[n, H, W]` that an answer lists, in its order; of none an empty one or nothing."""
        if self.nothing and not masks.any():
            return masks[:0]
        if self.max_objects == 1 or not masks.any():
            return masks.any(0, keepdim=True).to(torch.uint8)
        sizes = masks.flatten(1).sum(1)
        shown = masks[sizes.argsort(descending=True, stable=True)][: int((sizes > 0).sum())]
        if len(shown) > self.max_objects:  # no pixel is lost
            own = self.max_objects - 1
            shown = torch.cat([shown[:own], shown[own:].amax(0, keepdim=True)])
        return shown[mask_boxes(shown.bool())[:, 0].argsort(stable=True)].to(torch.uint8)

    def parse(self, answers: Answers) -> Prediction:
        """Masks `[n, H, W]` and the boxes around them, one empty one where there are too few mask tokens."""
        device, presence = answers.scores.device, self.presence(answers)
        count = min(answers.mask_counts[0] // self.mask_tokens, self.max_objects)
        scores = self.scores_of(answers, max(count, 1))
        if not count:
            masks = torch.zeros(1, *answers.size, dtype=torch.bool, device=device)
            scores = scores if self.score == "first" else torch.zeros_like(scores)
        else:
            rows = torch.zeros(count, dtype=torch.int64, device=device)
            which = [torch.arange(count, device=device)] if self.max_objects > 1 else []
            masks, sure = inside(answers.retrieve_masks(rows, *which), self.mask_threshold)
            if self.score == "quality":
                scores = soft_iou(sure).square()
            if self.largest_parts:
                masks = largest_parts(masks, self.largest_parts)
            masks = self.kept(masks, presence)
        return Prediction(
            self.name,
            mask_boxes(masks),
            scores,
            masks=masks,
            presence=presence,
            text=answers.texts[0],
        )
