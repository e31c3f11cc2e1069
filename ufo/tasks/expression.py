"""Tasks about what a text refers to: one object as published, or with settings none or several.

`nothing` and `max_objects` follow generalised referring expressions (Liu et al., gRefCOCO; He et al., GREC).
The model says in words that there is no such object; how likely it is to begin these words is decoded
beside the answer, which always names the likeliest object. So a threshold decides, and can be moved later.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ufo.tasks.base import SCORES, Answers, Said, Task


@dataclass(kw_only=True)
class Expressions(Task):
    """A task with one answer per image and expression.

    Args:
        nothing: an expression may refer to no object; data without one are then learned from as well.
        max_objects: so many objects an answer lists at most; `max_length` must leave room for them.
        presence_threshold: below this probability that there is such an object, an answer is empty.
    """

    needs_text: ClassVar[bool] = True
    cuts_answers: ClassVar[bool] = False  # half a number is another one, and fifteen mask tokens are no mask
    scores: ClassVar[tuple[str, ...]] = SCORES

    nothing: bool = False
    max_objects: int = 1
    presence_threshold: float = 0.5

    def __post_init__(self) -> None:
        """Raises ValueError for numbers that are out of range or leave no room."""
        if self.max_objects < 1:
            raise ValueError(f"task '{self.name}': max_objects={self.max_objects} must be 1 or more")
        if not 0 <= self.presence_threshold <= 1:
            raise ValueError(
                f"task '{self.name}': presence_threshold={self.presence_threshold} must be a probability, "
                "from 0 to 1"
            )
        room = self.max_objects * (self.object_tokens + 1)
        if self.max_objects > 1 and self.max_length < room:
            raise ValueError(
                f"task '{self.name}': max_length={self.max_length} has no room for max_objects="
                f"{self.max_objects}; set max_length={room} or more"
            )

    @property
    @abstractmethod
    def object_tokens(self) -> int:
        """How many tokens the answer about one object has at least, the separator not counted."""

    @abstractmethod
    def holds_objects(self, said: Said) -> bool:
        """Whether all that an answer lists can be read, and it lists one object at least."""

    def well_formed(self, said: Said, classes: Sequence[str]) -> bool:
        refuses = self.nothing and "".join(said.text.split()) == "".join(self.wording.nothing.split())
        return refuses or self.holds_objects(said)

    def prompt(self, classes: Sequence[str], text: str, generator: torch.Generator | None = None) -> str:
        return self.wording.ask(self.name, generator, text=text)

    @property
    def objects_per_answer(self) -> int:
        return self.max_objects

    @property
    def refusal(self) -> str:
        return self.wording.nothing if self.nothing else ""

    def scores_of(self, answers: Answers, count: int) -> Tensor:
        """The scores of an answer's first `count` objects, as its tokens tell them, float32 `[count]`."""
        if self.score == "first":
            return answers.scores.expand(count)
        return self.certain(answers)[0, :count]

    def presence(self, answers: Answers) -> Tensor | None:
        """The probability that there is such an object, float32 `[]`; None if the task does not say."""
        return None if answers.refusals is None else 1 - answers.refusals[0]

    def kept(self, found: Tensor, presence: Tensor | None) -> Tensor:
        """What was found, or the same of zeros where there is likelier nothing: no wait for the device."""
        if presence is None:
            return found
        return found * (presence >= self.presence_threshold)

    def refuse_nothing(self, text: str) -> None:
        """Raises ValueError where there is no object to learn, and the task has no words for that."""
        if not self.nothing:
            raise ValueError(
                f"nothing in the image is marked as {text!r}, and the task '{self.name}' always answers with "
                f"an object; set tasks.{self.name}.nothing=true, or leave such expressions out"
            )
