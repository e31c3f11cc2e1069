"""Visual question answering: free text about an image, over several turns.

A conversation is one answer row: its first question is the prompt, only the answers in it are learned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ufo.tasks.base import Answers, Segments, Supervision, Task
from ufo.types import Batch, Prediction


@dataclass(kw_only=True)
class VQA(Task):
    """The answer to a question; training learns all answers of a conversation at once."""

    name: ClassVar[str] = "vqa"
    needs_text: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"conversation"})

    max_length: int = 64

    def prompt(self, classes, text, generator=None) -> str:
        return self.wording.ask(self.name, generator, text=text)

    def supervise(self, batch: Batch, grid) -> Supervision:
        return Supervision([_turns(conversation) for conversation in batch.conversations])

    def parse(self, answers: Answers) -> Prediction:
        return Prediction(self.name, text=answers.texts[0].strip(), scores=answers.scores)


def _turns(conversation: list[str]) -> str | Segments:
    """What follows the first question: its answer, or all turns of a longer conversation."""
    _, first, *rest = conversation
    if not rest:
        return first
    return [(first, True)] + [(text, i % 2 == 1) for i, text in enumerate(rest)]
