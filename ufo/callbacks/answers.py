"""Accuracy of answers to questions about images."""

from __future__ import annotations

from typing import ClassVar

from ufo.callbacks.metric import MetricCallback, Record, required
from ufo.metrics.answers import AnswerAccuracy
from ufo.types import Prediction, Target


class VQAScores(MetricCallback):
    """exact_match, accuracy (after normalisation) and ANLS; see `AnswerAccuracy`."""

    task: ClassVar[str] = "vqa"

    def make_metric(self, classes: tuple[str, ...]) -> AnswerAccuracy:
        return AnswerAccuracy(sync_on_compute=False)

    def record(self, prediction: Prediction, target: Target, classes: tuple[str, ...]) -> Record:
        (references,) = required(target, "answers")
        return prediction.text, references
