"""Decoding: all queries of all images at once, finished ones leave the batch (paper section 3.4).

Shapes: `R` answer rows (images x queries), `T` answer tokens, `C` width, `V` vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ufo.backbones.base import AnswerCache, Backbone, Context
from ufo.head.beam import Step, beam_search
from ufo.tasks.base import Task
from ufo.tokenizer import UFOTokenizer

_ONE_WORD = 2  # tokens fed to a row that says one word: the start and the word


@dataclass
class Decoded:
    """Generated tokens, without the start token; after a row's end everything is `end_id`."""

    ids: Tensor  # int64 [R, T]
    first_scores: Tensor  # float32 [R], probability of the first token
    features: Tensor  # [R, T, C], the hidden state that emitted each token


def decode(backbone: Backbone, context: Context, tokenizer: UFOTokenizer, task: Task) -> Decoded:
    """Decode as the task says: greedily, or with beam search where `num_beams` is more than 1."""
    if task.num_beams <= 1:
        ids = (tokenizer.start_id, tokenizer.end_id, task.max_length)
        return greedy(backbone, context, *ids, tokenizer.mask_id, getattr(task, "mask_tokens", 0))
    best = beam_search(
        answer_step(backbone, context, task.max_length),
        context.num_rows,
        start_id=tokenizer.start_id,
        end_id=tokenizer.end_id,
        max_length=task.max_length,
        num_beams=task.num_beams,
        temperature=task.temperature,
        length_penalty=task.length_penalty,
        device=backbone.device,
    )
    return Decoded(best.ids, best.scores[:, 0], best.features)


def answer_step(backbone: Backbone, context: Context, max_length: int) -> Step:
    """What beam search calls to run one token of each row; rows start as those of the context."""
    cache, rows = AnswerCache(max_length), context.num_rows

    def step(tokens: Tensor, parents: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal context, rows
        if cache.length:
            cache.select(parents)
        # all rows of a query share its memory: where no query left, changing places changes nothing
        if len(parents) != rows:
            context, rows = context.select(parents), len(parents)
        hidden = backbone.answer(context, tokens[:, None], cache=cache)[:, -1]  # [R, C]
        return F.linear(hidden, backbone.output_embedding), hidden

    return step


def greedy(
    backbone: Backbone,
    context: Context,
    start_id: int,
    end_id: int,
    max_length: int,
    mask_id: int = -1,
    mask_tokens: int = 0,
) -> Decoded:
    """The likeliest token at every step, until each row has ended or holds `max_length` tokens.

    Finished rows leave the batch. A row that emits its first `<MASK>` is fed all `mask_tokens` of them at
    once and the chunk is verified: where any of its positions would have said something else, the row goes
    back and takes single steps, so the answers are those of single steps. 0 switches chunks off.
    """
    return _Greedy(backbone, start_id, end_id, max_length, mask_id, mask_tokens)(context)


@dataclass
class _Group:
    """Unfinished rows that hold equally many tokens, so that they share a cache and take steps together."""

    rows: Tensor  # int64 [n], places in the result
    context: Context
    cache: AnswerCache
    token: Tensor  # int64 [n], the last token of each row, not fed yet
    length: int  # tokens chosen so far

    def select(self, index: Tensor, room: int = 0) -> _Group:
        """Some of the rows, with their own cache unless all stay and it has room for so many tokens."""
        if len(index) == len(self.rows) and room <= self.cache.max_length:
            return self
        cache = _copy(self.cache, index, max(room, self.cache.max_length))
        context = self.context if len(index) == len(self.rows) else self.context.select(index)
        return _Group(self.rows[index], context, cache, self.token[index], self.length)


def _copy(cache: AnswerCache, rows: Tensor, room: int) -> AnswerCache:
    """These rows of a cache, in a larger one; only what is filled is copied."""
    layers = {}
    for layer, pair in cache.layers.items():
        layers[layer] = grown = tuple(x.new_empty(len(rows), x.shape[1], room, x.shape[3]) for x in pair)
        for new, old in zip(grown, pair, strict=True):
            new[:, :, : cache.length] = old[:, :, : cache.length][rows]
    return AnswerCache(room, cache.length, layers)


class _Greedy:
    """The state of one `greedy` call."""

    def __init__(self, backbone, start_id, end_id, max_length, mask_id, mask_tokens):
        self.backbone, self.embedding = backbone, backbone.output_embedding
        self.start_id, self.end_id, self.mask_id = start_id, end_id, mask_id
        self.max_length, self.mask_tokens = max_length, mask_tokens

    def __call__(self, context: Context) -> Decoded:
        rows, device = context.num_rows, self.backbone.device
        token = torch.full((rows,), self.start_id, device=device)
        # most rows say one word and end; the others get memory for a whole answer when those have left
        cache = AnswerCache(_ONE_WORD)
        group = _Group(torch.arange(rows, device=device), context, cache, token, 0)
        hidden = self._feed(group, token[:, None])[:, -1]  # [R, C]
        logits = F.linear(hidden, self.embedding).float()
        self.ids = torch.full((rows, self.max_length), self.end_id, device=device)
        self.features = hidden.new_zeros(rows, self.max_length, hidden.shape[-1])
        chosen = logits.argmax(-1)
        first = (-F.cross_entropy(logits, chosen, reduction="none")).exp()
        pending = self._choose(group, hidden, chosen)
        while pending:
            group, in_chunk = pending.pop()
            pending += self._chunk(group) if in_chunk else self._step(group)
        return Decoded(self.ids, first, self.features)

    def _feed(self, group: _Group, tokens: Tensor) -> Tensor:
        return self.backbone.answer(group.context, tokens, cache=group.cache)

    def _next(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.embedding).argmax(-1)

    def _step(self, group: _Group) -> list[tuple[_Group, bool]]:
        hidden = self._feed(group, group.token[:, None])[:, -1]
        return self._choose(group, hidden, self._next(hidden))

    def _choose(self, group: _Group, hidden: Tensor, chosen: Tensor) -> list[tuple[_Group, bool]]:
        """Record one token per row; what goes on, split into rows that start a chunk and others."""
        self.ids[group.rows, group.length] = chosen
        self.features[group.rows, group.length] = hidden
        # 0: ends here, 1: goes on, 2: starts a mask
        starts = (chosen == self.mask_id) & (group.token != self.mask_id) & (self.mask_tokens > 1)
        kind = (chosen != self.end_id).int() + starts.int()
        group.token, group.length = chosen, group.length + 1
        if group.length >= self.max_length:
            return []
        kinds = kind.tolist()  # the one synchronisation of a step
        parts = [(k, [i for i, kind in enumerate(kinds) if kind == k]) for k in (1, 2)]
        # later: room for a whole chunk that starts at the last token
        fits = group.cache.length < group.cache.max_length
        room = {1: 0 if fits else self.max_length + self.mask_tokens, 2: self.max_length + self.mask_tokens}
        return [
            (group.select(torch.tensor(index, device=chosen.device), room[k]), k == 2)
            for k, index in parts
            if index
        ]

    def _chunk(self, group: _Group) -> list[tuple[_Group, bool]]:
        """Feed a whole mask; rows that would have continued it otherwise take single steps instead."""
        before, count = group.cache.length, self.mask_tokens
        hidden = self._feed(group, group.token[:, None].expand(-1, count))  # [n, K, C]
        chosen = self._next(hidden)
        as_fed = (chosen[:, :-1] == self.mask_id).all(1)
        kept = min(count - 1, self.max_length - group.length)  # tokens that still fit
        good, bad = as_fed.nonzero()[:, 0], (~as_fed).nonzero()[:, 0]
        result: list[tuple[_Group, bool]] = []
        if len(bad):
            # `select` without a change would share the cache that the others go on with
            again = replace(group.select(bad), cache=group.cache.copy(bad))
            again.cache.length = before
            result.append((again, False))
        if len(good):
            part, columns = group.select(good), slice(group.length, group.length + kept)
            self.ids[part.rows, columns] = self.mask_id
            self.features[part.rows, columns] = hidden[good, :kept]
            part = replace(part, length=part.length + kept)
            if part.length < self.max_length:
                result += self._choose(part, hidden[good, -1], chosen[good, -1])
        return result
