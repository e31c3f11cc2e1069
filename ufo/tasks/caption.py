"""Image captioning: one answer per image, any text (paper section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from ufo.ops.grid import Queries
from ufo.tasks.base import Answers, Asked, Task
from ufo.types import Batch, Prediction


@dataclass(kw_only=True)
class Caption(Task):
    """A sentence about the image."""

    name: ClassVar[str] = "caption"
    needs: ClassVar[frozenset[str]] = frozenset({"caption"})

    max_length: int = 20

    def prompt(self, classes: Sequence[str], text: str, generator: torch.Generator | None = None) -> str:
        return self.wording.ask(self.name, generator)

    def supervise(self, batch: Batch, grid: Queries | None) -> Asked:
        return Asked(self.prompts(batch, training=True), answers=list(batch.texts))

    def parse(self, answers: Answers) -> Prediction:
        return Prediction(self.name, text=answers.texts[0], scores=answers.scores)
