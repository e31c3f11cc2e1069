"""Texts about an image or to a question: exact match, accuracy and ANLS, which sum up over images.

What would be right follows from the annotations by the task's own kind (`Text.truth`), as in a validation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ufo.data.errors import DataError
from ufo.kinds import Kind, Text
from ufo.metrics.answers import answer_scores, answer_sums
from ufo.score.predictions import Answer
from ufo.score.tasks.base import SumScorer
from ufo.score.truth import Example
from ufo.types import Target


class TextScorer(SumScorer):
    """An answer counts as right if it is one of the texts that would be; a missing one is wrong."""

    kind: ClassVar[Kind | None] = Text()
    reads = "texts"
    headline: ClassVar[str] = "accuracy"

    @classmethod
    def asks(cls, kind: Kind) -> bool:
        return isinstance(kind, Text) and kind.asks

    def add(self, example: Example, answers: Sequence[Answer]) -> None:
        if len(answers) > 1:
            raise DataError(
                f"{answers[1].where} is another answer about {example}, as {answers[0].where}; keep one."
            )
        said = answers[0].said if answers else None
        if answers and said is None:
            raise DataError(f"{answers[0].where} has no text, which this task needs; add `answer`.")
        try:
            right = self.rules.kind.truth(self._target(example))
            self.count(example, answer_sums(said, right), {})
        except ValueError as error:
            raise DataError(
                f"{self.truth.path} does not say what a right answer about {example} is ({error}); give "
                "annotations that do."
            ) from error

    def of_sums(self, sums: Tensor) -> dict[str, Tensor]:
        return answer_scores(sums)

    def _target(self, example: Example) -> Target:
        """What a data set would give of an example; masks are encoded only where the task needs them."""
        corners = [[x, y, x + w, y + h] for x, y, w, h in example.boxes]
        return Target(
            0,
            example.size or (0, 0),
            image_id=example.image,
            boxes=torch.tensor(corners, dtype=torch.float32).reshape(-1, 4),
            labels=torch.tensor(example.labels, dtype=torch.int64),
            iscrowd=torch.tensor(example.crowd, dtype=torch.bool),
            area=torch.tensor(example.areas, dtype=torch.float32),
            masks=list(example.masks()) if "masks" in self.rules.needs else None,
            text=example.text,
            sentence=example.sentence,
        )
