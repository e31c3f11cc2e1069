"""Semantic segmentation: a class's region is one object; queries without one stay unsupervised.

Prediction is the per-pixel argmax over classes of the summed score x mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ufo.kinds import ClassMap, Kind
from ufo.ops.masks import mask_boxes
from ufo.tasks.base import Answers
from ufo.tasks.dense import ImageObjects, MaskTask
from ufo.tasks.instance_segmentation import read_masks
from ufo.types import IGNORE, Batch, Prediction, given


@dataclass(kw_only=True)
class SemanticSegmentation(MaskTask):
    """One mask per class present."""

    name: ClassVar[str] = "semantic_segmentation"
    kind: ClassVar[Kind] = ClassMap()
    published_classes: ClassVar[str] = "ade20k_classes.txt"
    needs: ClassVar[frozenset[str]] = frozenset({"semantic"})
    answers_background: ClassVar[bool] = False
    chunk: ClassVar[int] = 64  # masks at original size that are added up at a time

    assign_noise: float = 1.0  # U(0, noise) on top of the cost, so that any point of a region may answer

    def prompt(self, classes: Sequence[str], text: str, generator: torch.Generator | None = None) -> str:
        return self.wording.ask(self.name, generator, classes=",".join(classes))

    def objects(self, batch: Batch, i: int) -> ImageObjects:
        labels, masks = regions(given(batch.semantic, "class maps")[i])
        # the corners are pixels, not the edges around them: the published models were matched like this
        return ImageObjects(labels, mask_boxes(masks, whole_pixels=False), masks)

    def noise(self, queries: int, objects: int, generator: torch.Generator) -> Tensor:
        return torch.rand(queries, objects, generator=generator) * self.assign_noise

    def parse(self, answers: Answers) -> Prediction:
        row, label = read_masks(answers, self.mask_tokens)
        votes = answers.scores.new_zeros(len(answers.classes), *answers.size)
        for rows, labels in zip(row.split(self.chunk), label.split(self.chunk), strict=True):
            votes.index_add_(0, labels, answers.retrieve_masks(rows) * answers.scores[rows, None, None])
        return Prediction(self.name, semantic=most_votes(votes), classes=answers.classes)


def regions(semantic: Tensor) -> tuple[Tensor, Tensor]:
    """A map `[H, W]` as objects: labels `[N]` of the classes present and their masks uint8 `[N, H, W]`."""
    labels = semantic.unique().long()
    labels = labels[labels != IGNORE]
    return labels, (semantic[None] == labels[:, None, None]).to(torch.uint8)


def most_votes(votes: Tensor) -> Tensor:
    """The class `[H, W]` with the most votes `[C, H, W]`; IGNORE, unknown, where no class has any."""
    if not len(votes):
        return torch.full(votes.shape[1:], IGNORE, dtype=torch.int64, device=votes.device)
    most, semantic = votes.max(0)
    return semantic.masked_fill(most <= 0, IGNORE)
