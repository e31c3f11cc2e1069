"""Object detection: each query answers a class name and a box, or `background` (paper section 3.3).

The centre is relative to the query's reference, width and height are absolute, all in bins of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ufo.kinds import Kind, Objects
from ufo.ops.boxes import decode_boxes, encode_boxes
from ufo.ops.grid import Queries
from ufo.ops.names import find_class
from ufo.ops.nms import soft_nms
from ufo.tasks.base import SCORES, Answer, Answers, Fields
from ufo.tasks.box import BoxNumbers
from ufo.tasks.dense import DenseTask, ImageObjects
from ufo.types import Batch, Prediction, given


@dataclass(kw_only=True)
class Detection(BoxNumbers, DenseTask):
    """Boxes with classes; soft-NMS on the parsed answers (docs/published_system.md#post-processing)."""

    name: ClassVar[str] = "detection"
    kind: ClassVar[Kind] = Objects()
    published_classes: ClassVar[str] = "coco_classes.txt"
    needs: ClassVar[frozenset[str]] = frozenset({"boxes", "labels"})
    scores: ClassVar[tuple[str, ...]] = SCORES

    max_per_image: int = 100
    nms_iou: float = 0.5
    nms_min_score: float = 1e-3

    def prompt(self, classes: Sequence[str], text: str, generator: torch.Generator | None = None) -> str:
        return self.wording.ask(self.name, generator, classes=",".join(classes), num_bins=self.num_bins)

    def object_grammar(self) -> Fields:
        return self.wording.box_grammar(self.num_bins)

    def holds_object(self, rest: str, masks: int) -> bool:
        return self.wording.read_box(rest) is not None

    def objects(self, batch: Batch, i: int) -> ImageObjects:
        return ImageObjects(given(batch.labels, "labels")[i], given(batch.boxes, "boxes")[i])

    def write_answers(
        self, batch: Batch, queries: Queries, objects: list[ImageObjects], matched: Tensor
    ) -> tuple[list[Answer], None]:
        answers: list[Answer] = []
        for one, row, points in zip(objects, matched, queries.references, strict=True):
            rows: list[Answer] = [self.wording.background] * len(row)
            positive = (row >= 0).nonzero()[:, 0]
            chosen = row[positive]
            bins = encode_boxes(one.boxes[chosen], batch.image_size, self.num_bins, points[positive])
            labels = one.labels[chosen].tolist()
            for at, label, box in zip(positive.tolist(), labels, bins.tolist(), strict=True):
                rows[at] = f"{batch.classes[label]},{self.wording.write_box(box)}"
            answers += rows
        return answers, None

    def _read(self, text: str, classes: Sequence[str]) -> tuple[int, list[int]] | None:
        """Class and bins that an answer names; None if it names no object."""
        index, rest = find_class(text, classes)
        box = self.wording.read_box(rest)
        return None if index < 0 or box is None else (index, box)

    def parse(self, answers: Answers) -> Prediction:
        all_scores = self.scores_of(answers)
        objects = {text: self._read(text, answers.classes) for text in set(answers.texts)}
        order = all_scores.argsort(descending=True).tolist()
        rows = [number for number in order if objects[answers.texts[number]]][: self.max_per_image]
        found = [objects[answers.texts[number]] for number in rows]
        labels, bins = [one[0] for one in found if one], [one[1] for one in found if one]
        device = all_scores.device
        row = torch.tensor(rows, dtype=torch.int64, device=device)
        said = torch.tensor(bins, dtype=torch.int64, device=device).view(-1, 4)
        boxes = decode_boxes(
            self.numbers_of(answers, row, torch.zeros_like(row), said),
            answers.size,
            self.num_bins,
            given(answers.references, "reference points")[row],
        )
        label = torch.tensor(labels, dtype=torch.int64, device=device)
        keep, scores = soft_nms(
            boxes, all_scores[row], label, iou_threshold=self.nms_iou, min_score=self.nms_min_score
        )
        return Prediction(
            self.name,
            boxes=boxes[keep],
            scores=scores,
            labels=label[keep],
            classes=answers.classes,
            rows=row[keep],
        )
