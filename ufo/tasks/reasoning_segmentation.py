"""Reasoning segmentation (ReasonSeg): the mask that answers a question or fits a description (paper 4.3).

The user's words are asked as they are; a whole sentence and a phrase are put differently.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ufo.tasks.base import WORDING_STREAM, Supervision, batch_generator
from ufo.tasks.referring_segmentation import ReferringSegmentation
from ufo.types import Batch


@dataclass(kw_only=True)
class ReasoningSegmentation(ReferringSegmentation):
    """One mask per text. Data sets say which texts are sentences; of others the closing mark decides."""

    name: ClassVar[str] = "reasoning_segmentation"

    def prompt(self, classes, text, generator=None) -> str:
        return self._ask(text, is_sentence(text), generator)

    def prompts(self, batch: Batch, supervision: Supervision | None = None) -> list[str]:
        generator = None if supervision is None else batch_generator(batch, WORDING_STREAM)
        sentences = batch.sentences or [is_sentence(text) for text in batch.texts]
        return [self._ask(t, s, generator) for t, s in zip(batch.texts, sentences, strict=True)]

    def _ask(self, text: str, sentence: bool, generator) -> str:
        if sentence:
            return self.wording.ask("reasoning_sentence", generator, text=text)
        return self.wording.ask("reasoning_phrase", generator, text=text.lower())


def is_sentence(text: str) -> bool:
    """Whether a text ends as sentences do."""
    return text.rstrip().endswith((".", "?", "!"))
