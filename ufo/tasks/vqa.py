"""Visual question answering: free text about an image, over several turns.

A conversation is one answer row: its first question is the prompt, only the answers in it are learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from ufo.kinds import Kind, Text
from ufo.ops.grid import Queries
from ufo.tasks.base import Answer, Answers, Asked, Task
from ufo.types import Batch, Prediction, given


@dataclass(kw_only=True)
class VQA(Task):
    """The answer to a question; training learns all answers of a conversation at once."""

    name: ClassVar[str] = "vqa"
    kind: ClassVar[Kind] = Text(asks=True, key="answer")
    needs_text: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"conversation"})

    max_length: int = 64

    def prompt(self, classes: Sequence[str], text: str, generator: torch.Generator | None = None) -> str:
        return self.wording.ask(self.name, generator, text=text)

    def supervise(self, batch: Batch, grid: Queries | None) -> Asked:
        conversations = given(batch.conversations, "conversations")
        return Asked(self.prompts(batch, training=True), answers=[_turns(one) for one in conversations])

    def parse(self, answers: Answers) -> Prediction:
        return Prediction(self.name, text=answers.texts[0].strip(), scores=answers.scores)


def _turns(conversation: list[str]) -> Answer:
    """What follows the first question: its answer, or all turns of a longer conversation."""
    _, first, *rest = conversation
    if not rest:
        return first
    return [(first, True)] + [(text, i % 2 == 1) for i, text in enumerate(rest)]
