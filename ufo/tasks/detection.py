"""Object detection: each query answers a class name and a box, or `background` (paper section 3.3).

The centre is relative to the query's reference, width and height are absolute, all in bins of the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ufo.ops.boxes import decode_boxes, encode_boxes
from ufo.ops.names import find_class
from ufo.ops.nms import soft_nms
from ufo.tasks.base import Answers, Supervision, batch_generator
from ufo.tasks.dense import DenseTask, assign_objects
from ufo.types import Batch, Prediction


@dataclass(kw_only=True)
class Detection(DenseTask):
    """Boxes with classes; soft-NMS on the parsed answers (docs/published_system.md#post-processing)."""

    name: ClassVar[str] = "detection"
    needs: ClassVar[frozenset[str]] = frozenset({"boxes", "labels"})

    num_bins: int
    max_per_image: int = 100
    nms_iou: float = 0.5
    nms_min_score: float = 1e-3

    def prompt(self, classes, text, generator=None) -> str:
        return self.wording.ask(self.name, generator, classes=",".join(classes), num_bins=self.num_bins)

    def object_grammar(self):
        return self.wording.box_grammar(self.num_bins)

    def assign(self, batch, i, grid, generator):
        size = tuple(batch.images.shape[-2:])
        return assign_objects(
            grid, batch.boxes[i], size, None, repeat=self.repeat, point_weight=self.point_cost
        )

    def supervise(self, batch: Batch, grid) -> Supervision:
        generator = batch_generator(batch)
        queries, matched = self.match(batch, grid, generator)
        size = tuple(batch.images.shape[-2:])
        answers: list[str | None] = []
        for i, row in enumerate(matched):
            rows = [self.wording.background] * len(row)
            positive = (row >= 0).nonzero()[:, 0]
            objects = row[positive]
            bins = encode_boxes(batch.boxes[i][objects], size, self.num_bins, queries.references[i, positive])
            labels = batch.labels[i][objects].tolist()
            for at, label, box in zip(positive.tolist(), labels, bins.tolist(), strict=True):
                rows[at] = f"{batch.classes[label]},{self.wording.write_box(box)}"
            answers += rows
        classes = self.sample_classes(batch.classes, batch.labels, generator)
        return Supervision(answers, queries, classes=classes)

    def parse(self, answers: Answers) -> Prediction:
        labels, bins, rows = [], [], []
        for row in answers.scores.argsort(descending=True).tolist():
            label, rest = find_class(answers.texts[row], answers.classes)
            box = self.wording.read_box(rest)
            if label < 0 or box is None:
                continue
            labels.append(label), bins.append(box), rows.append(row)
            if len(rows) == self.max_per_image:
                break
        device = answers.scores.device
        row = torch.tensor(rows, dtype=torch.int64, device=device)
        boxes = decode_boxes(
            torch.tensor(bins, device=device).view(-1, 4),
            answers.size,
            self.num_bins,
            answers.references[row],
        )
        label = torch.tensor(labels, dtype=torch.int64, device=device)
        keep, scores = soft_nms(
            boxes, answers.scores[row], label, iou_threshold=self.nms_iou, min_score=self.nms_min_score
        )
        return Prediction(
            self.name, boxes=boxes[keep], scores=scores, labels=label[keep], classes=answers.classes
        )
