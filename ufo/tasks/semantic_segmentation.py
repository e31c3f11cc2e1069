"""Semantic segmentation: a class's region is one object; queries without one stay unsupervised.

Prediction is the per-pixel argmax over classes of the summed score x mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torchvision.ops import masks_to_boxes

from ufo.tasks.base import Answers, Supervision, batch_generator
from ufo.tasks.dense import MaskTask, assign_objects
from ufo.tasks.instance_segmentation import read_masks
from ufo.types import IGNORE, Batch, Prediction


@dataclass(kw_only=True)
class SemanticSegmentation(MaskTask):
    """One mask per class present."""

    name: ClassVar[str] = "semantic_segmentation"
    needs: ClassVar[frozenset[str]] = frozenset({"semantic"})
    answers_background: ClassVar[bool] = False
    chunk: ClassVar[int] = 64  # masks at original size that are added up at a time

    assign_noise: float = 1.0  # U(0, noise) on top of the cost, so that any point of a region may answer

    def prompt(self, classes, text, generator=None) -> str:
        return self.wording.ask(self.name, generator, classes=",".join(classes))

    def assign(self, batch, i, grid, generator):
        labels, masks = regions(batch.semantic[i])
        queries, count = len(grid.references[0]), self.repeat * len(labels)
        noise = torch.rand(queries, count, generator=generator) * self.assign_noise
        return assign_objects(
            grid,
            masks_to_boxes(masks) if len(masks) else torch.zeros(0, 4),
            tuple(batch.images.shape[-2:]),
            masks,
            repeat=self.repeat,
            point_weight=self.point_cost,
            mask_weight=self.mask_cost,
            noise=noise,
        )

    def supervise(self, batch: Batch, grid) -> Supervision:
        generator = batch_generator(batch)
        queries, matched = self.match(batch, grid, generator)
        objects = [regions(m) for m in batch.semantic]
        written = self.write_masks(objects, batch.classes, matched, otherwise=None)
        classes = self.sample_classes(batch.classes, [labels for labels, _ in objects], generator)
        return Supervision(queries=queries, classes=classes, **written)

    def parse(self, answers: Answers) -> Prediction:
        row, label = read_masks(answers, self.mask_tokens)
        votes = answers.scores.new_zeros(len(answers.classes), *answers.size)
        for rows, labels in zip(row.split(self.chunk), label.split(self.chunk), strict=True):
            votes.index_add_(0, labels, answers.masks(rows) * answers.scores[rows, None, None])
        return Prediction(self.name, semantic=votes.argmax(0), classes=answers.classes)


def regions(semantic: Tensor) -> tuple[Tensor, Tensor]:
    """A map `[H, W]` as objects: labels `[N]` of the classes present and their masks uint8 `[N, H, W]`."""
    labels = semantic.unique().long()
    labels = labels[labels != IGNORE]
    return labels, (semantic[None] == labels[:, None, None]).to(torch.uint8)
