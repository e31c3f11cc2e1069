"""Greedy answers that mostly follow known templates: guess the rest, check it in one call.

A sentence around a mask ("Sure, it is <MASK>...<MASK>.") is fed as a whole; up to the first token that the
model would not have said, and with that one, it is what single steps give: two or three calls per template.
Shapes: `B` rows (one answer per image), `T` answer tokens, `k` fed tokens, `C` width, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ufo.backbones.base import AnswerCache, Backbone, Context


@dataclass
class _Group:
    """Unfinished rows that hold equally many tokens."""

    rows: Tensor  # int64 [n], places in the result
    context: Context
    cache: AnswerCache
    said: list[list[int]]  # n lists of tokens so far


@dataclass
class Followed:
    """What `Decoded` of `ufo.head.decoding` holds, and how many calls it took."""

    ids: Tensor  # int64 [B, T]
    first_scores: Tensor  # float32 [B]
    features: Tensor  # [B, T, C]
    calls: int


def follow_drafts(
    backbone: Backbone,
    context: Context,
    drafts: Sequence[Sequence[int]],
    start_id: int,
    end_id: int,
    max_length: int,
) -> Followed:
    """The likeliest token at every step, with guesses that are checked; `drafts` are whole answers."""
    count, device = context.num_rows, backbone.device
    room = max_length + max(map(len, drafts), default=0)
    ids = torch.full((count, max_length), end_id, device=device)
    features, first = None, None
    rows = torch.arange(count, device=device)
    pending, calls = [_Group(rows, context, AnswerCache(room), [[] for _ in range(count)])], 0
    while pending:
        group = pending.pop()
        begin = len(group.said[0])
        fed = _guess(group.said, drafts, start_id, end_id, max_length)
        before, calls = group.cache.length, calls + 1
        tokens = torch.tensor(fed, device=device)  # [n, k]
        hidden = backbone.answer(group.context, tokens, cache=group.cache)
        logits = F.linear(hidden, backbone.output_embedding).float()
        chosen = logits.argmax(-1)  # [n, k]
        if features is None:
            features = hidden.new_zeros(count, max_length, hidden.shape[-1])
            first = (-F.cross_entropy(logits[:, 0], chosen[:, 0], reduction="none")).exp()
        said = chosen.tolist()  # the one synchronisation of a call
        going: dict[int, list[int]] = {}
        for i, (guess, answer) in enumerate(zip(fed, said, strict=True)):
            kept = _agreed(guess, answer, end_id)
            group.said[i] = group.said[i] + answer[:kept]
            if answer[kept - 1] != end_id and begin + kept < max_length:
                going.setdefault(kept, []).append(i)
            here = group.rows[i]
            ids[here, begin : begin + kept] = chosen[i, :kept]
            features[here, begin : begin + kept] = hidden[i, :kept]
        pending += [_part(group, index, before + kept) for kept, index in going.items()]
    return Followed(ids, first, features, calls)


def _part(group: _Group, index: list[int], length: int) -> _Group:
    """Some rows of a group with the first `length` fed tokens as their cache."""
    rows = torch.tensor(index, device=group.rows.device)
    cache = group.cache.copy(rows)
    cache.length = length
    context = group.context if len(index) == len(group.rows) else group.context.select(rows)
    return _Group(group.rows[rows], context, cache, [group.said[i] for i in index])


def _guess(said: list[list[int]], drafts, start_id: int, end_id: int, max_length: int) -> list[list[int]]:
    """What each row is fed: its last token and the rest of the first draft that it follows; equally long."""
    rest = []
    for tokens in said:
        fitting = (d[len(tokens) : -1] for d in drafts if list(d[: len(tokens)]) == tokens)
        last = tokens[-1] if tokens else start_id
        rest.append([last, *next(fitting, ())][: max_length - len(tokens)])
    longest = max(map(len, rest))
    return [row + [end_id] * (longest - len(row)) for row in rest]


def _agreed(guess: list[int], answer: list[int], end_id: int) -> int:
    """How many tokens of an answer stand: all that follow from right guesses, up to its end."""
    for i, token in enumerate(answer):
        if token == end_id or i + 1 == len(guess) or guess[i + 1] != token:
            return i + 1
    return len(answer)
