"""BLEU, CIDEr and ROUGE-L of captions, without Java (docs/published_system.md#caption-scores)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torchmetrics import MetricCollection
from torchmetrics.text import BLEUScore

from ufo.callbacks.metric import MetricCallback, Record, required
from ufo.metrics.captions import CIDEr, RougeL
from ufo.metrics.ptb import ptb_tokenize
from ufo.types import Prediction, Target


class CaptionScores(MetricCallback):
    """BLEU-1 to BLEU-4, CIDEr (0..10) and ROUGE-L, equal to pycocoevalcap's.

    METEOR and SPICE need Java programs and are left out. BLEU is exactly 0 when no n-gram of the
    whole data set is right, where pycocoevalcap gives a value below 0.001.
    """

    task: ClassVar[str] = "caption"

    def make_metric(self, classes: tuple[str, ...]) -> MetricCollection:
        metrics = {f"BLEU-{n}": BLEUScore(n, sync_on_compute=False) for n in (1, 2, 3, 4)}
        metrics |= {"CIDEr": CIDEr(), "ROUGE-L": RougeL(sync_on_compute=False)}
        return MetricCollection(metrics, compute_groups=False).set_dtype(torch.float64)

    def record(self, prediction: Prediction, target: Target, classes: tuple[str, ...]) -> Record:
        (captions,) = required(target, "captions")
        if not captions:
            raise ValueError("it has no reference captions; leave it out of the data set")
        # of two references equally far in length from the caption, BLEU counts the shorter;
        # torchmetrics takes the first
        references = sorted(map(ptb_tokenize, captions), key=lambda text: len(text.split()))
        return [ptb_tokenize(prediction.text)], [references]

    def score(self, record: Record) -> float:
        rouge = RougeL(sync_on_compute=False)
        rouge.update(*record)
        return float(rouge.compute())
