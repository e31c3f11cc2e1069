"""Image captioning: one answer per image, any text (paper section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from ufo.kinds import Kind, Text
from ufo.ops.grid import Queries
from ufo.ops.ptb import ptb_tokenize
from ufo.ops.text import rouge_l
from ufo.tasks.base import Answers, Asked, Task
from ufo.types import Batch, Prediction


def common_words(text: str, references: Sequence[str]) -> float:
    """ROUGE-L of a caption, 0..1: how many words it shares with its references, in order."""
    return rouge_l(ptb_tokenize(text), [ptb_tokenize(reference) for reference in references])


@dataclass(kw_only=True)
class Caption(Task):
    """A sentence about the image."""

    name: ClassVar[str] = "caption"
    kind: ClassVar[Kind] = Text(alike=common_words)
    needs: ClassVar[frozenset[str]] = frozenset({"caption"})

    max_length: int = 20

    def prompt(self, classes: Sequence[str], text: str, generator: torch.Generator | None = None) -> str:
        return self.wording.ask(self.name, generator)

    def supervise(self, batch: Batch, grid: Queries | None) -> Asked:
        return Asked(self.prompts(batch, training=True), answers=list(batch.texts))

    def parse(self, answers: Answers) -> Prediction:
        return Prediction(self.name, text=answers.texts[0].strip(), scores=answers.scores)
