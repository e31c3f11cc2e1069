"""What a task is: a prompt, an answer grammar, and how targets become answers and answers predictions.

A task has no weights and knows no backbone (paper section 3; design section 1). One file per task.
Shapes: `B` images, `Q` queries, `S` trained queries, `K` mask tokens, `H W` pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from ufo.ops.grid import Queries
from ufo.types import Batch, Prediction


@dataclass
class Supervision:
    """What the model should answer to one batch. Built on the CPU: matching and text need nothing else."""

    answers: list[str | None]  # B*S rows, image by image; None: this row has no loss
    queries: Queries | None = None  # the S trained queries of each image, dense tasks only
    # masks, sorted by row; empty where the task has none
    mask_rows: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))  # [M]
    masks: Tensor | None = None  # uint8 [M, H, W]
    mask_counts: list[int] = field(default_factory=list)  # B, masks per image


@dataclass
class Answers:
    """What the model answered to one image's queries, best first token first is NOT implied."""

    texts: list[str]  # Q
    scores: Tensor  # float32 [Q], probability of the first token
    references: Tensor | None  # [Q, 2] normalised (x, y)
    size: tuple[int, int]  # (height, width) of the original image
    classes: tuple[str, ...]
    mask_counts: list[int]  # Q, how many mask tokens each answer holds
    masks: Callable[[Tensor], Tensor]  # rows [M] -> probabilities float32 [M, H, W] at original size


@dataclass(kw_only=True)
class Task(ABC):
    """Settings that every task has; they are stored with a checkpoint."""

    name: ClassVar[str]
    needs_text: ClassVar[bool] = False  # a prompt with the user's words

    image_size: int  # network input, pixels per side
    max_length: int = 30  # tokens an answer may have
    grid_per_window: int = 0  # R of the R x R queries per window; 0: one answer per image
    num_beams: int = 1
    temperature: float = 1.0
    length_penalty: float = 1.0

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that build this task again."""
        return asdict(self)

    @abstractmethod
    def prompt(self, classes: Sequence[str], text: str) -> str:
        """The prompt for one image."""

    @abstractmethod
    def supervise(self, batch: Batch, grid: Queries | None) -> Supervision:
        """Choose trained queries of the full `grid [1, Q]` and write their answers."""

    @abstractmethod
    def parse(self, answers: Answers) -> Prediction:
        """Read the answers to one image; what cannot be parsed is left out, never an error."""


def batch_generator(batch: Batch) -> torch.Generator:
    """All randomness of a batch's supervision follows from the seed that the mixer gave it."""
    return torch.Generator().manual_seed(batch.seed)
