"""Where the published code departs from its paper, and what that changes.

The published weights were trained with that code, and the recordings of the golden tests made with it. A
backbone that stands for them carries a `Quirks`; everyone else calls its methods and knows no flag. Without
arguments it changes nothing. See docs/published_system.md#quirks.
Shapes: `R` answer rows, `T` answer tokens, `B` images, `C` width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor

QueryUpdate = Literal["never", "always", "training"]


@dataclass(frozen=True)
class Quirks:
    """The departures that a backbone repeats.

    Args:
        end_of_longest_only: of the queries' answers in a batch, only the longest ones learn to end.
        embedding_of_first: the feature of an answer's first token is its embedding, not what emitted it.
        blank_after_prompt: a single answer's prompt keeps the blank that ends it. Training joins this blank
            with the answer's first word to one token, which can then not be said any more. None: as
            `padded_positions`, the other departure of decoding.
        padded_positions: answers of a shorter prompt count on from the end of the batch's longest prompt.
        query_update_at_global: when queries, which skip the global layers of a UFO-ViT, are given their start
            state and a sample of the image there all the same. The published weights were trained with the
            update and are scored without it ("training").
    """

    end_of_longest_only: bool = False
    embedding_of_first: bool = False
    padded_positions: bool = False
    blank_after_prompt: bool | None = None
    query_update_at_global: QueryUpdate = "never"

    def learned_ends(self, lengths: Tensor) -> Tensor:
        """Which of the queries' answers learn their end token, bool `[R]`.

        `lengths` int64 `[R]` counts the tokens of each answer, 0 where there is none.
        """
        if self.end_of_longest_only and len(lengths):
            return lengths == lengths.max()
        return lengths > 0

    def answer_features(self, ids: Tensor, hidden: Tensor, embed: Callable[[Tensor], Tensor]) -> Tensor:
        """The feature of each answer token: the state that emitted it `[R, T, C]`; `embed` embeds ids."""
        if not self.embedding_of_first:
            return hidden
        return torch.cat([embed(ids[:, :1]).to(hidden.dtype), hidden[:, 1:]], 1)

    @property
    def keeps_blank(self) -> bool:
        """Whether a prompt's last blank is fed before a single answer."""
        return self.padded_positions if self.blank_after_prompt is None else self.blank_after_prompt

    def asked(self, prompt: str) -> str:
        """As much of a prompt as is fed before a single answer that continues it."""
        return prompt if self.keeps_blank else prompt.rstrip(" ")

    def first_position(self, behind_prompt: Tensor, longest: int) -> Tensor:
        """The place of each query's first token; `behind_prompt [B]` follows its own prompt."""
        return torch.full_like(behind_prompt, longest) if self.padded_positions else behind_prompt

    def updates_queries(self, global_layer: bool, training: bool) -> bool:
        """Whether queries are given their start state and an image sample before a layer of a UFO-ViT."""
        at_global = {"never": False, "always": True, "training": training}
        return not global_layer or at_global[self.query_update_at_global]

    def flags(self) -> dict[str, bool]:
        """The departures that are switched on or off, as a language model's settings have them."""
        return {name: value for name, value in asdict(self).items() if isinstance(value, bool)}
