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
    sums: Tensor  # float64 [4], of `answer_sums`

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("sums", torch.zeros(4, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, answer: str, references: Sequence[str]) -> None:
        """One answer and all that would be right; ValueError if nothing would be."""
        self.sums += answer_sums(answer, references)

    def compute(self) -> dict[str, Tensor]:
        """Scalars float64 in 0..1."""
        return answer_scores(self.sums)


def answer_sums(answer: str | None, references: Sequence[str]) -> Tensor:
    """What sums up over answers: float64 `[4]`, equal, equal when normalised, similarity, and 1.

    None: there is no answer, which is wrong. Raises ValueError if nothing would be right.
    """
    if not references:
        raise ValueError("it has no reference answers; leave it out of the data set")
    if answer is None:
        return torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    plain = normalize_answer(answer)
    exact = any(answer.strip() == r.strip() for r in references)
    right = any(plain == normalize_answer(r) for r in references)
    near = max(similarity(answer, r) for r in references)
    return torch.tensor([exact, right, near, 1.0], dtype=torch.float64)


def answer_scores(sums: Tensor) -> dict[str, Tensor]:
    """exact_match, accuracy and ANLS of summed `answer_sums` `[..., 4]`: float64 `[...]` each."""
    exact, right, near, total = sums.unbind(-1)
    total = total.clamp(min=1)
    return {"exact_match": exact / total, "accuracy": right / total, "ANLS": near / total}


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
