"""Image captioning: one answer per image, any text (paper section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ufo.tasks.base import Answers, Supervision, Task
from ufo.types import Batch, Prediction


@dataclass(kw_only=True)
class Caption(Task):
    """A sentence about the image."""

    name: ClassVar[str] = "caption"
    needs: ClassVar[frozenset[str]] = frozenset({"caption"})

    max_length: int = 20

    def prompt(self, classes, text, generator=None) -> str:
        return self.wording.ask(self.name, generator)

    def supervise(self, batch: Batch, grid) -> Supervision:
        return Supervision(list(batch.texts))

    def parse(self, answers: Answers) -> Prediction:
        return Prediction(self.name, text=answers.texts[0], scores=answers.scores)
