"""Class maps: mIoU, aAcc and mAcc from histograms, which sum up over images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from ufo.data.datasets.semantic import label_table
from ufo.data.errors import DataError
from ufo.data.pictures import read_label_map
from ufo.kinds import ClassMap, Kind
from ufo.metrics.mean_iou import segmentation_scores
from ufo.ops.overlap import class_histograms
from ufo.score.predictions import Answer
from ufo.score.tasks.base import Rows, Rules, SumScorer
from ufo.score.truth import Example, Truth
from ufo.types import IGNORE


class ClassMapScorer(SumScorer):
    """Maps of predictions have the numbers of the annotations; 255 in a prediction is always wrong."""

    kind: ClassVar[Kind | None] = ClassMap()
    reads = "maps"
    headline: ClassVar[str] = "mIoU"

    def __init__(self, truth: Truth, rules: Rules) -> None:
        super().__init__(truth, rules)
        unused = [0] if truth.numbers[0] else []
        self._table = label_table(truth.classes, truth.classes, truth.numbers, unused)

    def add(self, example: Example, answers: Sequence[Answer]) -> None:
        assert example.map is not None
        wanted = self._labels(str(example.map))
        if len(answers) > 1:
            raise DataError(
                f"{answers[1].where} is another map of {example}, as {answers[0].where}; keep one."
            )
        if answers:
            path = (answers[0].masks or [None])[0]
            if not isinstance(path, Path):
                raise DataError(f"{answers[0].where} is no label map; give a folder of PNG maps.")
            found = self._labels(str(path))
        else:
            found = torch.full_like(wanted, IGNORE)
        try:
            histograms = class_histograms(found, wanted, len(self.truth.classes), IGNORE)
        except ValueError as error:
            raise DataError(f"{answers[0].where}: {error}.") from error
        self.count(example, histograms.double().flatten(), {})

    def _labels(self, path: str) -> Tensor:
        labels = self._table[read_label_map(path).clamp(0, len(self._table) - 1)].long()
        if (labels < 0).any():
            numbers = self.truth.numbers
            raise DataError(
                f"{path} holds numbers that are none of {numbers[0]} to {numbers[-1]} (or 255, "
                "ignored); give "
                "--classes with all classes, or --reduce-zero-label if 0 means none."
            )
        return labels

    def of_sums(self, sums: Tensor) -> dict[str, Tensor]:
        return segmentation_scores(sums.unflatten(-1, (3, len(self.truth.classes))))

    def tables(self) -> dict[str, Rows]:
        both, found, wanted = self.stacked().sum(0).unflatten(0, (3, len(self.truth.classes)))
        iou, acc = both / (found + wanted - both), both / wanted
        columns = zip(self.truth.classes, wanted.tolist(), iou.tolist(), acc.tolist(), strict=True)
        return {"class": {name: {"number": n, "IoU": i, "Acc": a} for name, n, i, a in columns}}
