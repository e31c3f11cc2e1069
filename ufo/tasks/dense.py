"""What detection, instance and semantic segmentation share: grid queries and their assignment.

Every object is matched to up to `repeat` queries, `samples_per_window` queries of each window are trained
(docs/published_system.md#assignment). Shapes: `B` images, `Q` queries, `S` trained queries, `N` objects.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ufo.ops.grid import Queries
from ufo.ops.matching import assign, sample_per_window
from ufo.tasks.base import WORDING_STREAM, Supervision, Task, batch_generator
from ufo.tasks.wording.base import MASK_TOKEN
from ufo.types import Batch


@dataclass(kw_only=True)
class DenseTask(Task):
    """A task whose queries each answer for at most one object.

    With probability `class_sampling` a training batch asks each image for a list of its own: the classes that
    are there and `negatives` times as many others, shuffled (docs/published_system.md#words).
    """

    names_first: ClassVar[bool] = True
    answers_background: ClassVar[bool] = True  # queries learn to say that they answer for no object

    grid_per_window: int = 5
    samples_per_window: int = 10
    repeat: int = 3
    point_cost: float = 5.0
    class_sampling: float = 0.0
    negatives: int = 3

    def prompts(self, batch: Batch, supervision: Supervision | None = None) -> list[str]:
        lists = None if supervision is None else supervision.classes
        if lists is None:  # the whole list is asked for in the same words in training and at inference
            return [self.prompt(batch.classes, "")] * len(batch)
        generator = batch_generator(batch, WORDING_STREAM)
        return [self.prompt(classes, "", generator) for classes in lists]

    def sample_classes(
        self, classes: Sequence[str], labels: Sequence[Tensor], generator: torch.Generator
    ) -> list[tuple[str, ...]] | None:
        """A list of classes for each image, given the labels `[N]` in it; None: the whole list for all."""
        if not self.class_sampling or torch.rand((), generator=generator) >= self.class_sampling:
            return None
        return [tuple(classes[j] for j in self._sampled(x, len(classes), generator)) for x in labels]

    def _sampled(self, labels: Tensor, count: int, generator: torch.Generator) -> list[int]:
        """The classes present and random others, shuffled."""
        present = labels.unique()
        others = torch.randperm(count, generator=generator)
        others = others[~torch.isin(others, present)][: self.negatives * max(len(present), 1)]
        chosen = torch.cat([present, others])
        return chosen[torch.randperm(len(chosen), generator=generator)].tolist()

    def grammar(self, classes):
        answers = ((tuple(classes), (",",), *self.object_grammar()),)
        return (*answers, ((self.wording.background,),)) if self.answers_background else answers

    @abstractmethod
    def object_grammar(self) -> tuple[tuple[str, ...], ...]:
        """What follows the class name and the comma, field by field."""

    def match(self, batch: Batch, grid: Queries, generator: torch.Generator) -> tuple[Queries, Tensor]:
        """The trained queries and the object each answers for: `[B, S]`, -1 = none."""
        assigned = torch.stack([self.assign(batch, i, grid, generator) for i in range(len(batch))])
        chosen = sample_per_window(assigned, grid.windows[0], self.samples_per_window, generator=generator)
        return grid.select(chosen), assigned.gather(1, chosen)

    @abstractmethod
    def assign(self, batch: Batch, i: int, grid: Queries, generator: torch.Generator) -> Tensor:
        """Index of the object of image `i` that each query of the grid answers for, `[Q]`, -1 = none."""


@dataclass(kw_only=True)
class MaskTask(DenseTask):
    """A dense task that answers `name,<MASK>...<MASK>`."""

    mask_tokens: int = 16
    mask_cost: float = 100.0

    def object_grammar(self):
        return ((MASK_TOKEN * self.mask_tokens,),)

    def write_masks(
        self,
        objects: list[tuple[Tensor, Tensor]],
        names: Sequence[str],
        matched: Tensor,
        otherwise: str | None,
    ) -> dict:
        """Answers and mask targets of `matched [B, S]`, given each image's (labels [N], masks [N, H, W])."""
        suffix = "," + MASK_TOKEN * self.mask_tokens
        answers: list[str | None] = []
        for (labels, _), row in zip(objects, matched.tolist(), strict=True):
            texts = [names[j] + suffix for j in labels.tolist()]
            answers += [texts[j] if j >= 0 else otherwise for j in row]
        positive = matched >= 0
        masks = [m[row[keep]] for (_, m), row, keep in zip(objects, matched, positive, strict=True)]
        return {
            "answers": answers,
            "mask_rows": positive.flatten().nonzero()[:, 0],
            "masks": torch.cat(masks),
            "mask_counts": [len(m) for m in masks],
        }


def assign_objects(
    grid: Queries, boxes: Tensor, size: tuple[int, int], masks: Tensor | None, **settings
) -> Tensor:
    """`ufo.ops.matching.assign` on a grid; every query is background in an image without objects."""
    points = grid.references[0]
    if not len(boxes):
        return torch.full((len(points),), -1)
    return assign(points, boxes, size, masks, **settings)
