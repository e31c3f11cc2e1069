"""What a task is: a prompt, an answer grammar, and how targets become answers and answers predictions.

A task has no weights and knows no backbone (paper section 3; design section 1). One file per task.
Shapes: `B` images, `Q` queries, `S` trained queries, `K` mask tokens, `H W` pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from ufo.ops.grid import Queries
from ufo.tasks.wording import UFO_VIT, Wording
from ufo.types import Batch, Prediction

Segments = list[tuple[str, bool]]
"""Turns of one answer row. True: an answer, which is learned and ends with the end token; False: a further
question, which is not learned and which the model writes in its backbone's chat format (`Backbone.turn`)."""


@dataclass
class Supervision:
    """What the model should answer to one batch. Built on the CPU: matching and text need nothing else."""

    # B*S rows, image by image; None: this row has no loss. A conversation of several turns is one row
    answers: list[str | Segments | None]
    queries: Queries | None = None  # the S trained queries of each image, dense tasks only
    # masks, sorted by row; empty where the task has none
    mask_rows: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))  # [M]
    masks: Tensor | None = None  # uint8 [M, H, W]
    mask_counts: list[int] = field(default_factory=list)  # B, masks per image
    # B lists of classes to ask for instead of the batch's one, dense tasks only
    classes: list[tuple[str, ...]] | None = None


@dataclass
class Answers:
    """What the model answered to one image's queries, best first token first is NOT implied."""

    texts: list[str]  # Q
    scores: Tensor  # float32 [Q], probability of the first token
    references: Tensor | None  # [Q, 2] normalised (x, y)
    size: tuple[int, int]  # (height, width) of the original image
    classes: tuple[str, ...]
    mask_counts: list[int]  # Q, how many mask tokens each answer holds
    # rows [M] with enough mask tokens -> probabilities of their first masks, float32 [M, H, W], original size
    masks: Callable[[Tensor], Tensor]
    # the same rows -> logits [M, h, w] before they are resized, for tasks that need not see every pixel
    mask_logits: Callable[[Tensor], Tensor] | None = None


@dataclass(kw_only=True)
class Task(ABC):
    """Settings that every task has, stored with a checkpoint. The `wording` follows from the backbone."""

    name: ClassVar[str]
    needs_text: ClassVar[bool] = False  # a prompt with the user's words
    names_first: ClassVar[bool] = False  # an answer counts only if it begins with a class name and a comma
    needs: ClassVar[frozenset[str]]  # annotations (`ufo.types.ANNOTATIONS`) that its data must have

    image_size: int  # network input, pixels per side
    max_length: int = 30  # tokens an answer may have
    grid_per_window: int = 0  # R of the R x R queries per window; 0: one answer per image
    num_beams: int = 1
    temperature: float = 1.0
    length_penalty: float = 1.0
    top_tokens: int = 1  # each query goes on from so many first tokens, other than the background's
    keep_queries: int = 0  # the best of them in an image that are decoded; 0: all
    constrained: bool = False  # only tokens that keep an answer well-formed
    causal_image: bool = False  # image tokens see only earlier ones (language models)
    wording: Wording = field(default=UFO_VIT, init=False, repr=False, compare=False)

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that build this task again."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.init}

    @property
    def drafts(self) -> tuple[str, ...]:
        """Whole answers that are likely: decoding checks such a guess instead of going token by token."""
        return ()

    @abstractmethod
    def prompt(self, classes: Sequence[str], text: str, generator: torch.Generator | None = None) -> str:
        """The question about one image; with a generator one of the wordings of training."""

    def prompts(self, batch: Batch, supervision: Supervision | None = None) -> list[str]:
        """The question about each image; training passes the `supervision`, and its wordings vary."""
        generator = None if supervision is None else batch_generator(batch, WORDING_STREAM)
        return [self.prompt(batch.classes, text, generator) for text in batch.texts]

    @property
    def has_grammar(self) -> bool:
        """Whether answers can be `constrained`; otherwise they are free text."""
        return type(self).grammar is not Task.grammar

    def grammar(self, classes: Sequence[str]) -> tuple[tuple[tuple[str, ...], ...], ...]:
        """Well-formed answers: alternatives of fields, each of which is one of some texts.

        Raises ValueError where answers are free text.
        """
        raise ValueError(f"answers of task '{self.name}' are free text; leave constrained=false")

    @abstractmethod
    def supervise(self, batch: Batch, grid: Queries | None) -> Supervision:
        """Choose trained queries of the full `grid [1, Q]` and write their answers."""

    @abstractmethod
    def parse(self, answers: Answers) -> Prediction:
        """Read the answers to one image; what cannot be parsed is left out, never an error."""


WORDING_STREAM = 0x5EEDED


def batch_generator(batch: Batch, stream: int = 0) -> torch.Generator:
    """All randomness of a batch's supervision follows from the seed that the mixer gave it.

    Generators of different streams are independent.
    """
    return torch.Generator().manual_seed(batch.seed ^ stream)  # torch looks at the lower 32 bits only
