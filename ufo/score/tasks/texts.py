"""Texts about an image or to a question: exact match, accuracy and ANLS, which sum up over images.

What would be right follows from the annotations by the task's own kind (`Text.truth`), as in a validation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from ufo.data.errors import DataError
from ufo.kinds import Kind, Text
from ufo.metrics.answers import answer_scores, answer_sums
from ufo.score.predictions import Answer
from ufo.score.tasks.base import SumScorer
from ufo.score.truth import Example


class TextScorer(SumScorer):
    """An answer counts as right if it is one of the texts that would be; a missing one is wrong."""

    kind: ClassVar[Kind | None] = Text()
    reads = "texts"
    headline: ClassVar[str] = "accuracy"

    @classmethod
    def asks(cls, kind: Kind, needs: frozenset[str]) -> bool:
        return isinstance(kind, Text) and kind.asks

    def add(self, example: Example, answers: Sequence[Answer]) -> None:
        self.refuse_several(example, answers)
        said = answers[0].said if answers else None
        if answers and said is None:
            raise DataError(f"{answers[0].where} has no text, which this task needs; add `answer`.")
        try:
            right = self.rules.kind.truth(self.target(example))
            self.count(example, answer_sums(said, right), {})
        except ValueError as error:
            raise DataError(
                f"{self.truth.path} does not say what a right answer about {example} is ({error}); give "
                "annotations that do."
            ) from error

    def of_sums(self, sums: Tensor) -> dict[str, Tensor]:
        return answer_scores(sums)
