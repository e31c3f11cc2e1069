"""Instance segmentation: each query answers `name,<MASK>x16` or `background` (paper sections 3.2, 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from ufo.kinds import Kind, Objects
from ufo.ops.masks import binarise, inside, mask_boxes, soft_iou
from ufo.ops.names import find_class
from ufo.ops.nms import matrix_nms
from ufo.tasks.base import SCORES, Answers
from ufo.tasks.dense import ImageObjects, MaskTask
from ufo.types import Batch, Prediction, given


@dataclass(kw_only=True)
class InstanceSegmentation(MaskTask):
    """Masks with classes; matrix NMS on the parsed answers (docs/published_system.md#post-processing)."""

    name: ClassVar[str] = "instance_segmentation"
    kind: ClassVar[Kind] = Objects(masks=True)
    published_classes: ClassVar[str] = "coco_classes.txt"
    needs: ClassVar[frozenset[str]] = frozenset({"boxes", "labels", "masks"})
    scores: ClassVar[tuple[str, ...]] = SCORES
    chunk: ClassVar[int] = 64  # masks at original size that are held as probabilities at a time

    mask_threshold: float = 0.5
    nms_sigma: float = 2.0
    nms_filter: float = 0.05

    def prompt(self, classes: Sequence[str], text: str, generator: torch.Generator | None = None) -> str:
        return self.wording.ask(self.name, generator, classes=",".join(classes))

    def objects(self, batch: Batch, i: int) -> ImageObjects:
        labels, boxes = given(batch.labels, "labels"), given(batch.boxes, "boxes")
        return ImageObjects(labels[i], boxes[i], given(batch.masks, "masks")[i])

    def parse(self, answers: Answers) -> Prediction:
        row, label = read_masks(answers, self.mask_tokens)
        masks, quality = self._binarise(answers, row)
        seen = quality > 0  # a mask without a pixel is not an object
        if self.score == "quality":
            quality = soft_iou(quality).square()
        # transposed: columns of pixels lie together, and a selection keeps that
        masks, label, row = masks.mT[seen].mT, label[seen], row[seen]
        scores = self.scores_of(answers)[row] * quality[seen]
        keep, scores = matrix_nms(
            masks, label, scores, sigma=self.nms_sigma, filter_threshold=self.nms_filter
        )
        masks = masks.mT[keep].mT
        return Prediction(
            self.name,
            boxes=mask_boxes(masks),
            scores=scores,
            labels=label[keep],
            masks=masks,
            classes=answers.classes,
            rows=row[keep],
        )

    def _binarise(self, answers: Answers, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Masks bool `[M, H, W]` and the mean probability inside each `[M]`, 0 for an empty one."""
        if answers.retrieve_logits is None or not len(rows):
            return inside(answers.retrieve_masks(rows), self.mask_threshold)
        found = [
            binarise(answers.retrieve_logits(part), answers.size, self.mask_threshold)
            for part in rows.split(
                self.chunk
            )  # hundreds of maps at the size of a photo would fill the memory
        ]
        # columns of pixels stay together, as RLE reads them
        return torch.cat([masks.mT for masks, _ in found]).mT, torch.cat([quality for _, quality in found])


def read_masks(answers: Answers, mask_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows `[M]` and labels `[M]` of the answers that name a class and hold exactly `mask_tokens` masks."""
    read = [
        (row, find_class(text, answers.classes)[0])
        for row, (text, count) in enumerate(zip(answers.texts, answers.mask_counts, strict=True))
        if count == mask_tokens
    ]
    valid = [pair for pair in read if pair[1] >= 0]
    pairs = torch.tensor(valid, dtype=torch.int64, device=answers.scores.device).view(-1, 2)
    return pairs[:, 0], pairs[:, 1]
