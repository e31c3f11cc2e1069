"""Reasoning segmentation (ReasonSeg): the mask that answers a question or fits a description (paper 4.3).

The user's words are asked as they are; a whole sentence and a phrase are put differently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from ufo.kinds import Kind, Referred
from ufo.tasks.base import WORDING_STREAM, batch_generator
from ufo.tasks.referring_segmentation import ReferringSegmentation
from ufo.types import Batch


@dataclass(kw_only=True)
class ReasoningSegmentation(ReferringSegmentation):
    """One mask per text. Data sets say which texts are sentences; of others the closing mark decides."""

    name: ClassVar[str] = "reasoning_segmentation"
    kind: ClassVar[Kind] = Referred(masks=True, asked="text")

    def prompt(self, classes: Sequence[str], text: str, generator: torch.Generator | None = None) -> str:
        return self._ask(text, is_sentence(text), generator)

    def prompts(self, batch: Batch, training: bool = False) -> list[str]:
        generator = batch_generator(batch, WORDING_STREAM) if training else None
        sentences = batch.sentences or [is_sentence(text) for text in batch.texts]
        return [self._ask(t, s, generator) for t, s in zip(batch.texts, sentences, strict=True)]

    def _ask(self, text: str, sentence: bool, generator: torch.Generator | None) -> str:
        if sentence:
            return self.wording.ask("reasoning_sentence", generator, text=text)
        return self.wording.ask("reasoning_phrase", generator, text=text.lower())


def is_sentence(text: str) -> bool:
    """Whether a text ends as sentences do."""
    return text.rstrip().endswith((".", "?", "!"))
