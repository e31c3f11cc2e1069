"""Answers to questions: exact match after the usual normalisation, and ANLS for near misses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from ufo.metrics.base import MetricCallback, Record, required
from ufo.types import Prediction, Target

ARTICLES = {"a", "an", "the"}
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {word: str(i) for i, word in enumerate(_WORDS)}
_PUNCTUATION = re.compile(r"[^\w\s.]|_|(?<!\d)\.|\.(?!\d)")


def normalize_answer(text: str) -> str:
    """Lower case, number words up to ten as digits, no articles, no punctuation but decimal points."""
    words = _PUNCTUATION.sub(" ", text.lower().replace("'", "")).split()
    return " ".join(NUMBERS.get(word, word) for word in words if word not in ARTICLES)


def similarity(answer: str, reference: str, threshold: float = 0.5) -> float:
    """1 - edit distance / length of the longer text, 0 below `threshold`; of normalised texts."""
    a, b = normalize_answer(answer), normalize_answer(reference)
    value = 1 - _edit_distance(a, b) / max(len(a), len(b), 1)
    return value if value >= threshold else 0.0


def _edit_distance(a: str, b: str) -> int:
    """Insertions, deletions and substitutions of characters from `a` to `b`."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]


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
    """exact_match, accuracy (after normalisation) and ANLS; see `AnswerAccuracy`."""

    task: ClassVar[str] = "vqa"

    def make_metric(self, classes: tuple[str, ...]) -> AnswerAccuracy:
        return AnswerAccuracy(sync_on_compute=False)

    def record(self, prediction: Prediction, target: Target, classes: tuple[str, ...]) -> Record:
        (references,) = required(target, "answers")
        return prediction.text, references
