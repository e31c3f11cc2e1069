"""Instance segmentation: each query answers `name,<MASK>x16` or `background` (paper sections 3.2, 3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torchvision.ops import masks_to_boxes

from ufo.ops.nms import matrix_nms
from ufo.tasks.base import Answers, Supervision, batch_generator
from ufo.tasks.dense import BACKGROUND, MaskTask, assign_objects, class_of
from ufo.types import Batch, Prediction


@dataclass(kw_only=True)
class InstanceSegmentation(MaskTask):
    """Masks with classes; matrix NMS on the parsed answers (metrics.md section 1.2)."""

    name: ClassVar[str] = "instance_segmentation"
    # masks at original size that are held as probabilities at a time: a GPU wants few calls, a CPU its cache
    chunk: ClassVar[int] = 64
    cpu_chunk: ClassVar[int] = 4

    mask_threshold: float = 0.5
    nms_sigma: float = 2.0
    nms_filter: float = 0.05

    def prompt(self, classes, text) -> str:
        return f"Task: instance_segmentation; Class: {','.join(classes)}."

    def assign(self, batch, i, grid, generator):
        return assign_objects(
            grid,
            batch.boxes[i],
            tuple(batch.images.shape[-2:]),
            batch.masks[i],
            repeat=self.repeat,
            point_weight=self.point_cost,
            mask_weight=self.mask_cost,
        )

    def supervise(self, batch: Batch, grid) -> Supervision:
        queries, matched = self.match(batch, grid, batch_generator(batch))
        objects = list(zip(batch.labels, batch.masks, strict=True))
        written = self.write_masks(objects, batch.classes, matched, otherwise=BACKGROUND)
        return Supervision(queries=queries, **written)

    def parse(self, answers: Answers) -> Prediction:
        row, label = read_masks(answers, self.mask_tokens)
        masks, quality = self._binarise(answers, row)
        seen = quality > 0  # a mask without a pixel is no object
        masks, label = masks[seen], label[seen]
        scores = (answers.scores[row] * quality)[seen]
        keep, scores = matrix_nms(
            masks, label, scores, sigma=self.nms_sigma, filter_threshold=self.nms_filter
        )
        masks = masks[keep]
        boxes = masks_to_boxes(masks) if len(masks) else scores.new_zeros(0, 4)
        boxes[:, 2:] += 1  # the last pixel belongs to the box
        return Prediction(self.name, boxes, scores, labels=label[keep], masks=masks, classes=answers.classes)

    def _binarise(self, answers: Answers, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Masks bool `[M, H, W]` and the mean probability inside each `[M]`, 0 for an empty one.

        In chunks: hundreds of probability maps at original size would fill the memory.
        """
        masks, quality = [], []
        for part in rows.split(self.cpu_chunk if rows.device.type == "cpu" else self.chunk):
            probability = answers.masks(part)
            mask = probability > self.mask_threshold
            inside = (probability * mask).flatten(1).sum(1)
            masks.append(mask)
            quality.append(inside / mask.flatten(1).sum(1).clamp(min=1))
        return torch.cat(masks), torch.cat(quality)


def read_masks(answers: Answers, mask_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows `[M]` and labels `[M]` of the answers that name a class and hold exactly `mask_tokens` masks."""
    read = [
        (row, class_of(text, answers.classes)[0])
        for row, (text, count) in enumerate(zip(answers.texts, answers.mask_counts, strict=True))
        if count == mask_tokens
    ]
    valid = [pair for pair in read if pair[1] >= 0]
    pairs = torch.tensor(valid, dtype=torch.int64, device=answers.scores.device).view(-1, 2)
    return pairs[:, 0], pairs[:, 1]
