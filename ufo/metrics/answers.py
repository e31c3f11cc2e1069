"""Texts of any task: exact match as it is and after the usual normalisation, and ANLS for near misses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from ufo.kinds import Kind, Text
from ufo.metrics.base import MetricCallback, Record
from ufo.ops.text import normalize_answer, similarity
from ufo.tasks import kind_of
from ufo.types import Prediction, Target


class AnswerAccuracy(Metric):
    """`exact_match` (equal but for blanks at the ends), `accuracy` and `ANLS`, the best over the references.

        accuracy = mean_i max_r [normalize(answer_i) == normalize(r)]
        ANLS     = mean_i max_r similarity(answer_i, r)

    With the ten human answers of VQAv2 as references, `accuracy` counts any of them as right, which is more
    generous than that benchmark's min(agreeing / 3, 1).
    """

    full_state_update = False
    higher_is_better = True
    exact: Tensor
    right: Tensor
    near: Tensor
    total: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for state in ("exact", "right", "near", "total"):
            self.add_state(state, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, answer: str, references: Sequence[str]) -> None:
        """One answer and all that would be right; ValueError if nothing would be."""
        if not references:
            raise ValueError("it has no reference answers; leave it out of the data set")
        plain = normalize_answer(answer)
        self.exact += any(answer.strip() == r.strip() for r in references)
        self.right += any(plain == normalize_answer(r) for r in references)
        self.near += max(similarity(answer, r) for r in references)
        self.total += 1

    def compute(self) -> dict[str, Tensor]:
        """Scalars float64 in 0..1."""
        total = self.total.clamp(min=1)
        return {
            "exact_match": self.exact / total,
            "accuracy": self.right / total,
            "ANLS": self.near / total,
        }


class AnswerScores(MetricCallback):
    """exact_match, accuracy (after normalisation) and ANLS of every text that no other metric scores.

    What is right follows from the task's kind (`Text.truth`). See `AnswerAccuracy`.
    """

    kind: ClassVar[Kind | None] = Text()
    headline = "accuracy"
    shown = ("exact_match", "ANLS")

    def make_metric(self, classes: tuple[str, ...]) -> AnswerAccuracy:
        return AnswerAccuracy(sync_on_compute=False)

    def record(self, prediction: Prediction, target: Target, classes: tuple[str, ...]) -> Record:
        right = kind_of(prediction.task).truth(target)
        if not right:
            raise ValueError(
                "its Target has no answers or captions; leave it out of the data set, or let the task say "
                "what is right: kind = Text(truth_of=...)"
            )
        return prediction.text, right
