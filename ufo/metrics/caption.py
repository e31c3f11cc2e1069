"""BLEU, CIDEr-D and ROUGE-L of captions, equal to pycocoevalcap's and without Java.
See docs/published_system.md#caption-scores.

`CIDEr` and `RougeL` are what torchmetrics lacks. They take captions that `ptb_tokenize` has made: lower-case
words with single spaces between them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.text import BLEUScore

from ufo.metrics.base import MetricCallback, Record, required
from ufo.metrics.examples import ExampleMetric
from ufo.ops.ptb import ptb_tokenize
from ufo.ops.text import rouge_l
from ufo.types import Prediction, Target

NGram = tuple[str, ...]


class _Vector(NamedTuple):
    """A caption as tf-idf weights, one dict and one norm per n-gram length."""

    weights: list[dict[NGram, float]]
    norms: list[float]
    length: int  # in bigrams, as the original counts it


class CIDEr(ExampleMetric):
    """CIDEr-D (Vedantam et al., arXiv 1411.5726): does a caption say what its references agree on?

    Per n-gram length, the cosine between tf-idf vectors of caption and reference, the caption's
    weights clipped to the reference's, times a Gaussian penalty on the difference in length; the
    mean over lengths and references, times 10. Document frequencies come from the references
    given, one image one document: the score of a part of a data set is not comparable with that of
    the whole, and of a single image it is 0.

    Args:
        max_n: longest n-gram.
        sigma: standard deviation of the length penalty, in words.
    """

    plot_upper_bound = 10.0

    def __init__(self, max_n: int = 4, sigma: float = 6.0) -> None:
        super().__init__()
        self.max_n = max_n
        self.sigma = sigma

    def update(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """Add images.

        Args:
            predictions: one tokenised caption per image.
            references: at least one tokenised reference per image.
        """
        for prediction, texts in zip(predictions, references, strict=True):
            self.examples.append((prediction, tuple(texts)))

    def compute(self) -> Tensor:
        """Scalar float64 in 0..10."""
        scores = self.scores()
        return torch.tensor(sum(scores) / max(len(scores), 1), dtype=torch.float64)

    def scores(self) -> list[float]:
        """The score of each image, in the order they came."""
        counted = [
            (self._count(prediction), [self._count(text) for text in texts])
            for prediction, texts in self.examples
        ]
        documents = Counter(ngram for _, texts in counted for ngram in set().union(*texts))
        log_images = math.log(max(len(counted), 1))
        idf = {ngram: log_images - math.log(number) for ngram, number in documents.items()}

        def vector(counts: Counter[NGram]) -> _Vector:
            weights: list[dict[NGram, float]] = [{} for _ in range(self.max_n)]
            for ngram, count in counts.items():
                weights[len(ngram) - 1][ngram] = count * idf.get(ngram, log_images)
            norms = [math.hypot(*part.values()) for part in weights]
            return _Vector(weights, norms, sum(c for ngram, c in counts.items() if len(ngram) == 2))

        def score(prediction: _Vector, references: list[_Vector]) -> float:
            return sum(self._similarity(prediction, r) for r in references) / len(references)

        return [10 * score(vector(p), [vector(t) for t in texts]) for p, texts in counted]

    def _count(self, text: str) -> Counter[NGram]:
        words = text.split()
        return Counter(
            tuple(words[i : i + n]) for n in range(1, self.max_n + 1) for i in range(len(words) - n + 1)
        )

    def _similarity(self, prediction: _Vector, reference: _Vector) -> float:
        total = 0.0
        for p, r, p_norm, r_norm in zip(
            prediction.weights, reference.weights, prediction.norms, reference.norms, strict=True
        ):
            if p_norm and r_norm:
                shared = sum(min(p[ngram], r[ngram]) * r[ngram] for ngram in p.keys() & r.keys())
                total += shared / (p_norm * r_norm)
        difference = prediction.length - reference.length
        return total / self.max_n * math.exp(-(difference**2) / (2 * self.sigma**2))


class RougeL(Metric):
    """ROUGE-L as pycocoevalcap has it, averaged over images.

    F-measure with recall weighted by `beta`, of the best precision and the best recall that any of
    the references gives (not necessarily the same one). torchmetrics' `ROUGEScore` is another
    measure: beta 1, one reference at a time, its own tokenisation.

    Args:
        beta: weight of the recall.
    """

    full_state_update = False
    higher_is_better = True
    score_sum: Tensor
    total: Tensor

    def __init__(self, beta: float = 1.2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.beta = beta
        for state in ("score_sum", "total"):
            self.add_state(state, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """Add images.

        Args:
            predictions: one tokenised caption per image.
            references: at least one tokenised reference per image.
        """
        for prediction, texts in zip(predictions, references, strict=True):
            self.score_sum += rouge_l(prediction, texts, self.beta)
            self.total += 1

    def compute(self) -> Tensor:
        """Scalar float64 in 0..1."""
        return self.score_sum / self.total.clamp(min=1)


class CaptionScores(MetricCallback):
    """BLEU-1 to BLEU-4, CIDEr (0..10) and ROUGE-L, equal to pycocoevalcap's.

    METEOR and SPICE need Java programs and are left out. BLEU is exactly 0 when no n-gram of the
    whole data set is right, where pycocoevalcap gives a value below 0.001.
    """

    task: ClassVar[str] = "caption"
    headline = "BLEU-4"
    shown = ("CIDEr", "ROUGE-L")

    def make_metric(self, classes: tuple[str, ...]) -> MetricCollection:
        metrics: dict[str, Any] = {f"BLEU-{n}": BLEUScore(n, sync_on_compute=False) for n in (1, 2, 3, 4)}
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
