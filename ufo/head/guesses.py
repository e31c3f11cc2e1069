"""Guesses of what a row says next: fed together with its last token and checked, they save calls.

All tokens that follow right guesses, and the one after them, are what single steps would have chosen. Masks
are guessed as runs of `<MASK>`, sentences around a mask by their likely wordings (paper section 3.2), and
behind the numbers of a box what separates them.
Shapes: `n` rows, `T` answer tokens, `G` guessed tokens, `D` drafts, `L` tokens of the longest draft.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Guess(Protocol):
    """A way to guess, on the host."""

    first: tuple[int, ...]
    """The tokens that it expects of every row before anything is chosen."""

    def after(self, ids: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """What rows say next of which the first `length [n]` of `ids [n, T]` are chosen, one at least.

        Returns tokens `[n, G]` and how many of them are meant for each row, `[n]`; the others are any tokens.
        """


class MaskRun:
    """After its first `<MASK>` a row says as many of them as a mask has."""

    first: tuple[int, ...] = ()

    def __init__(self, mask_id: int, mask_tokens: int):
        self.mask_id = mask_id
        self.rest = torch.full((1, mask_tokens - 1), mask_id)

    def after(self, ids: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        last = ids.gather(1, length[:, None] - 1)[:, 0]
        before = ids.gather(1, (length[:, None] - 2).clamp(min=0))[:, 0]
        begins = (last == self.mask_id) & ((before != self.mask_id) | (length == 1))
        return self.rest.expand(len(ids), -1), begins * self.rest.shape[1]


class Drafts:
    """A row goes on as the first of some whole answers that begins with all it has said so far."""

    def __init__(self, answers: Sequence[Sequence[int]]):
        """`answers` end with the end token, which is not guessed: the model says it in any case."""
        drafts = [list(ids[:-1]) for ids in answers]
        self.first = tuple(drafts[0]) if drafts else ()
        longest = max(map(len, drafts), default=0)
        # no token is -1: a draft agrees with nothing after its end
        rows = [ids + [-1] * (longest - len(ids)) for ids in drafts]
        self.table = torch.tensor(rows, dtype=torch.int64).view(len(drafts), longest)
        self.lengths = torch.tensor([len(ids) for ids in drafts], dtype=torch.int64)

    def after(self, ids: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        drafts, longest = self.table.shape
        if not drafts or not longest:
            return ids[:, :0], torch.zeros_like(length)
        shared = min(longest, ids.shape[1])
        same = ids[:, None, :shared] == self.table[:, :shared]  # [n, D, L]
        later = torch.arange(shared) >= length[:, None]
        fits = (same | later[:, None]).all(2) & (self.lengths > length[:, None])  # [n, D]
        draft = fits.int().argmax(1)
        rest = (self.lengths[draft] - length) * fits.any(1)
        columns = (length[:, None] + torch.arange(longest)).clamp(max=longest - 1)
        return self.table[draft[:, None], columns], rest


class Separators:
    """Answers begin as a box does, and behind each number stands what separates it from the next.

    A number may have more tokens than one, behind which the guess is wrong. Several rows would part by that
    and go on in more calls than together, so their numbers are not guessed behind.
    """

    def __init__(
        self,
        digits: Tensor,
        between: Sequence[int],
        behind: Sequence[int] = (),
        before: Sequence[int] = (),
        numbers: int = 4,
    ):
        """`digits` bool `[V]` are tokens of numbers; `between` two of them, `behind` and `before` a box."""
        self.digits, self.first, self.numbers = digits, tuple(before), numbers
        self.between, self.behind = torch.tensor([list(between)]), torch.tensor([list(behind)]).long()

    def after(self, ids: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        none = ids[:, :0], torch.zeros_like(length)
        if len(ids) != 1:
            return none
        is_digit = self.digits[ids[0, : int(length)]]
        if not bool(is_digit[-1]):
            return none
        begun = int(is_digit[0]) + int((is_digit[1:] & ~is_digit[:-1]).sum())
        tokens = self.between if begun % self.numbers else self.behind
        return tokens, torch.full_like(length, tokens.shape[1])


def guess(ways: Sequence[Guess], ids: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """`Guess.after` of the first of several ways that has something to say about a row."""
    tokens, count = ids[:, :0], torch.zeros_like(length)
    for way in ways:
        others, number = way.after(ids, length)
        width = max(tokens.shape[1], others.shape[1])
        tokens, others = (F.pad(x, (0, width - x.shape[1])) for x in (tokens, others))
        open_ = count == 0
        tokens, count = torch.where(open_[:, None], others, tokens), torch.where(open_, number, count)
    return tokens, count


def agreed(guessed: Tensor, chosen: Tensor, ends: Tensor) -> Tensor:
    """How many of the tokens `chosen [n, k]` stand where `guessed [n, k-1]` were fed, `[n]`: one at least.

    A token stands if all guesses before it are what was chosen and no answer `ends` (bool `[n, k]`) there.
    """
    right = (guessed == chosen[:, :-1]) & ~ends[:, :-1]
    return 1 + right.int().cumprod(1).sum(1)
