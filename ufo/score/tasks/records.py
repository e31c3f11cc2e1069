"""Kinds that read their records back (`Kind.reread`) and say how good an answer is (`Kind.score`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ufo.data.errors import DataError
from ufo.kinds import Kind
from ufo.score.predictions import Answer
from ufo.score.tasks.base import SumScorer, kind_of_object
from ufo.score.truth import Example
from ufo.types import Prediction


class RecordScorer(SumScorer):
    """`mean_score` of all examples, as the kind itself scores one; a missing answer is 0."""

    reads = "records"
    headline: ClassVar[str] = "mean_score"

    @classmethod
    def asks(cls, kind: Kind, needs: frozenset[str]) -> bool:
        return "expression" in needs

    def add(self, example: Example, answers: Sequence[Answer]) -> None:
        self.refuse_several(example, answers)
        score = self._score(example, answers[0]) if answers else 0.0
        sums = torch.tensor([score, 1.0], dtype=torch.float64)
        self.count(example, sums, kind_of_object(example, self.truth))

    def _score(self, example: Example, answer: Answer) -> float:
        kind = self.rules.kind
        try:
            fields = kind.reread(answer.record)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{answer.where} is no record of this task ({type(error).__name__}: {error}); `ufo predict "
                "--json` writes such records."
            ) from error
        if fields is None:
            raise DataError(f"{answer.where} cannot be read back: `reread` of the task's kind gives None.")
        try:
            score, why = kind.score(Prediction("", **fields), self.target(example), self.truth.classes), ""
        except ValueError as error:
            score, why = None, f" ({error})"
        if score is None:
            raise DataError(
                f"{self.truth.path} does not say what a right answer about {example} is{why}; give "
                "annotations that do."
            )
        return score

    def of_sums(self, sums: Tensor) -> dict[str, Tensor]:
        total, number = sums.unbind(-1)
        return {"mean_score": total / number.clamp(min=1)}
