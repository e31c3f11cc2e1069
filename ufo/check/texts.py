"""Texts that a model cannot be asked with: longer than it reads, or with marks that only a prompt may hold.

How long a text may be depends on tokenizer, backbone and classes, so data sets cannot know it. Such a sample
is left out of training, and its text is cut in evaluation; both are counted among the problems of its data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch

from ufo.data.module import UFODataModule
from ufo.data.problems import DOUBTFUL, LEFT_OUT
from ufo.model import UFO
from ufo.ops.nearest import few
from ufo.tasks.base import Task
from ufo.types import MASK_TOKEN, Batch

LONG = "text that is longer than the model reads"
MARKED = "text with a mark that only the model's prompt may hold"
NAMED = 3
"""So many class names are listed in a message."""
SEEDS = 16
"""So many wordings of a training prompt are tried: the longest one counts."""


def check_marks(model: UFO, source: str, classes: Sequence[str]) -> None:
    """Raises ValueError for a class that holds `<MASK>`: an answer would promise a mask by its name."""
    written = model.tokenizer.encode(list(classes)) if classes and model.tokenizer.has_mask else []
    for name, tokens in zip(classes, written, strict=False):
        if model.tokenizer.mask_id in tokens:
            raise ValueError(
                f"{source}: the class '{name}' holds {MASK_TOKEN}, which stands for a mask; rename it"
            )


def read_apart(task: Task, classes: Sequence[str]) -> str:
    """What is to be said of class names that the task's prompt does not keep together; "" without any.

    Answers with them can be told (`ufo.ops.names`), so they are no error.
    """
    names = task.listed_apart(classes)
    if not names:
        return ""
    named = few(names, NAMED, quoted=True)
    what, each, them = ("classes", "each of them", "them") if len(names) > 1 else ("class", "it", "it")
    return (
        f"the prompt of {task.name} lists class names with commas and the {what} {named} with a comma "
        f"inside, so the model reads {each} as several names, though answers can be told; rename {them}"
    )


def check_texts(model: UFO, data: UFODataModule) -> None:
    """Find in all data that a run has built what the model cannot be asked with, and keep it out."""
    for source in data.sources:
        for split in source.built:
            limits = Limits(model, model.task(source.task), source.classes(split))
            source.limit(split, limits.report(source.data(split), train=split == "train"))


class Limits:
    """What a model can be asked with in one task about some classes."""

    def __init__(self, model: UFO, task: Task, classes: Sequence[str]) -> None:
        self.model, self.task, self.classes = model, task, tuple(classes)

    def report(self, data: Any, train: bool) -> dict[int, str]:
        """Count unreadable texts among the problems of `data`; by sample, what can be asked of them."""
        found = {}
        for i, kind, text in self.unreadable(data):
            effect = LEFT_OUT if train else DOUBTFUL
            data.problems.report(kind, f"sample {i}, {text[:40]!r}", effect=effect)
            found[i] = "" if train else self.cut(text)
        return found

    def unreadable(self, data: Any) -> Iterator[tuple[int, str, str]]:
        """Number, kind of problem and text of the samples that cannot be asked; no image is decoded."""
        if not (self.task.needs_text and hasattr(data, "said")):
            return
        spare = self.room - self.prompt_length
        for i in range(len(data)):
            text, *answers = data.said(i)
            # a token is a byte at least, so short texts need not be cut into tokens
            size = len(text.encode()) + sum(len(answer.encode()) for answer in answers)
            if (size > spare or "<" in text) and (problem := self.problem(text, answers)):
                yield i, problem, text

    def problem(self, text: str, answers: Sequence[str] = ()) -> str | None:
        """What keeps the task from asking with a text, or from learning what follows it; None if nothing."""
        prompt = self._longest(text)
        if len(prompt) > self.room or self._length(answers) > self.room - self._continued * len(prompt):
            return LONG
        ids, size = torch.tensor([prompt]), self.task.image_size
        try:
            self.model.backbone.check_prompt(ids, torch.ones_like(ids, dtype=torch.bool), size, size, 0)
        except ValueError:
            return MARKED
        return None

    def cut(self, text: str) -> str:
        """As much of the beginning of a text as the task can ask with."""
        low, high = 0, len(text)  # so many characters can, cannot be asked
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.problem(text[:middle]) else (middle, high)
        return text[:low]

    @cached_property
    def room(self) -> int:
        """The most tokens that a prompt may have without those of the image."""
        backbone, task = self.model.backbone, self.task
        most = self.model.tokenizer.max_prompt_length - 1  # one may be the end
        room = backbone.prompt_room(task.image_size, task.image_size, task.max_length)
        return most if room is None else min(most, room)

    @cached_property
    def prompt_length(self) -> int:
        """Tokens of the longest prompt without a text."""
        return len(self._longest(""))

    @property
    def _continued(self) -> bool:
        return self.model.backbone.answers_continue_prompt

    def _longest(self, text: str) -> list[int]:
        """The longest prompt of training or inference with a text, as tokens."""
        size = self.task.image_size
        prompts = set()
        for seed in range(SEEDS):
            pixels = torch.empty(1, 3, size, size, device="meta")
            asked = Batch(
                self.task.name, "", self.classes, pixels, [text], seed=seed, sentences=[seed % 2 == 1]
            )
            prompts |= {*self.task.prompts(asked, training=True), *self.task.prompts(asked)}
        rows = [[(self.model.backbone.chat(prompt), False)] for prompt in sorted(prompts)]
        return max((row.ids for row in self.model.tokenizer.encode_segments(rows)), key=len)

    def _length(self, answers: Sequence[str]) -> int:
        """Tokens of what follows the first question, as it is learned: some backbones cut a single answer."""
        lengths = [len(row) for row in self.model.tokenizer.encode(list(answers))] if answers else []
        if self._continued:
            return sum(lengths)
        return sum(min(length, self.task.max_length) for length in lengths)
