"""Reasoning segmentation (ReasonSeg): cIoU and gIoU of all texts, of each sort, and best of sentences."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ufo.metrics.base import MetricCallback, Record
from ufo.metrics.examples import ExampleMetric
from ufo.metrics.referring import ReferringIoU, overlap, single_iou
from ufo.types import Prediction, Target


class ReasoningIoU(ExampleMetric):
    """`ReferringIoU` of all texts, of phrases (`short`) and of sentences (`long`), each counted in two ways.

    `gIoU` and `cIoU` count every text. `gIoU_best_of_sentences` and `cIoU_best_of_sentences` count one text
    per image, the one with the best IoU (the first of equals): an oracle over paraphrases, which the
    published fine-tuned numbers are. `gIoU_short`, `gIoU_long` and so on are the same over one kind of text;
    a kind that does not occur is left out. There the best text is chosen among those of that kind.
    """

    def update(self, overlap: Tensor, image: str, sentence: bool | None) -> None:
        """One text: its overlap `[2]`, what names its image, whether it is a sentence (None: unknown)."""
        self.examples.append((tuple(overlap.tolist()), image, sentence))

    def compute(self) -> dict[str, Tensor]:
        """Scalars float64 in 0..1."""
        kinds = {
            "": self.examples,
            "_short": [e for e in self.examples if e[2] is False],
            "_long": [e for e in self.examples if e[2] is True],
        }
        values: dict[str, Any] = {}
        for kind, examples in kinds.items():
            if examples or not kind:
                values |= {k + kind: v for k, v in _scores([e[0] for e in examples]).items()}
                best = _scores(_best_per_image(examples))
                values |= {f"{k}{kind}_best_of_sentences": v for k, v in best.items()}
        return values


def _scores(overlaps: list[tuple[int, int]]) -> dict[str, Tensor]:
    metric = ReferringIoU(sync_on_compute=False)
    metric.update(torch.tensor(overlaps, dtype=torch.float64).reshape(-1, 2))
    return metric.compute()


def _best_per_image(examples: list[tuple]) -> list[tuple[int, int]]:
    """The overlap with the largest IoU of each image."""
    best: dict[str, tuple[float, tuple[int, int]]] = {}
    for pixels, image, _ in examples:
        score = float(single_iou(torch.tensor([pixels]))[0])
        if image not in best or score > best[image][0]:
            best[image] = (score, pixels)
    return [pixels for _, pixels in best.values()]


class ReasoningScores(MetricCallback):
    """The same over all texts, phrases, sentences, and the best text of each image; see `ReasoningIoU`."""

    task: ClassVar[str] = "reasoning_segmentation"
    headline = "gIoU"
    shown = ("cIoU",)

    def make_metric(self, classes: tuple[str, ...]) -> ReasoningIoU:
        return ReasoningIoU()

    def record(self, prediction: Prediction, target: Target, classes: tuple[str, ...]) -> Record:
        image = target.image or str(target.image_id)
        return overlap(prediction, target), image, target.sentence
