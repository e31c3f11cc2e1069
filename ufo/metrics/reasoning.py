"""Reasoning segmentation (ReasonSeg): cIoU and gIoU of all texts, of each sort, and best of sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ufo.metrics.base import MetricCallback, Record
from ufo.metrics.examples import ExampleMetric
from ufo.metrics.referring import mask_ious, mask_sums, overlap, single_iou
from ufo.types import Prediction, Target

Text = tuple[tuple[int, int], bool | None]
"""Overlap of a text's mask, and whether the text is a sentence."""

ROWS = tuple(
    (f"{kind}{of}", sentence, bool(of))
    for kind, sentence in (("", None), ("_short", False), ("_long", True))
    for of in ("", "_best_of_sentences")
)
"""What a value's name ends with, which texts it counts (None: all), and whether only the best of an image."""


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
        images: dict[str, list[Text]] = {}
        for pixels, image, sentence in self.examples:
            images.setdefault(image, []).append((pixels, sentence))
        return reasoning_ious(sum(map(image_sums, images.values()), start=torch.zeros(6, 4).double()))


def image_sums(texts: Sequence[Text]) -> Tensor:
    """What sums up over images: float64 `[6, 4]`, rows as in `ROWS`, columns as in `mask_sums`.

    Args:
        texts: the overlap of each text of one image, and whether it is a sentence (None: unknown).
    """
    rows = []
    for _, sentence, best in ROWS:
        chosen = [overlap for overlap, kind in texts if sentence is None or kind is sentence]
        if best and chosen:  # the first of equals
            chosen = [max(chosen, key=lambda pixels: float(single_iou(torch.tensor([pixels]))[0]))]
        rows.append(mask_sums(torch.tensor(chosen, dtype=torch.float64)).sum(0))
    return torch.stack(rows)


def reasoning_ious(sums: Tensor) -> dict[str, Tensor]:
    """The values of `ReasoningIoU` of summed `image_sums` `[..., 6, 4]`: float64 `[...]` each."""
    values: dict[str, Tensor] = {}
    for row, (name, sentence, _) in enumerate(ROWS):
        if sentence is None or sums[..., row, 3].any():
            values |= {f"{key}{name}": value for key, value in mask_ious(sums[..., row, :]).items()}
    return values


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
