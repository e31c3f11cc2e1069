"""Decoding: all queries of all images at once, finished ones leave the batch (paper section 3.4).

Shapes: `R` answer rows (images x queries), `T` answer tokens, `C` width, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ufo.backbones.base import AnswerCache, Backbone, Context
from ufo.head.beam import Step, beam_search
from ufo.head.drafts import follow_drafts
from ufo.head.expand import Expansion, repeat_rows
from ufo.head.grammar import START, Grammar, grammar_of, hopeless_tokens
from ufo.tasks.base import Task
from ufo.tokenizer import UFOTokenizer

_ONE_WORD = 2  # tokens fed to a row that says one word: the start and the word


@dataclass
class Decoded:
    """Generated tokens, without the start token; after a row's end everything is `end_id`."""

    ids: Tensor  # int64 [R, T]
    first_scores: Tensor  # float32 [R], probability of the first token
    features: Tensor  # [R, T, C], the hidden state that emitted each token
    queries: Tensor | None = None  # int64 [R], the query of its image that each row is of; None: row by row


def decode(
    backbone: Backbone,
    context: Context,
    tokenizer: UFOTokenizer,
    task: Task,
    classes: Sequence[str] = (),
) -> Decoded:
    """Decode as the task says: greedily, or with beam search where `num_beams` is more than 1.

    With the `classes` of a dense task given, a greedy row whose first token begins none of their names ends
    there: whatever it went on to say, it could not become an object, so predictions stay the same.
    A `constrained` task emits only tokens that keep answers well-formed, as many as these need.

    Raises ValueError where the answers of a constrained task are free text.
    """
    rules, limit = None, task.max_length
    if task.constrained:
        rules = grammar_of(tokenizer, task.grammar(tuple(classes))).to(backbone.device)
        limit = max(limit, rules.longest - 1)  # the end need not fit; well-formed answers do not babble
    if task.num_beams <= 1:
        ids = (tokenizer.start_id, tokenizer.end_id, limit)
        hopeless = None
        if classes and task.names_first and rules is None:
            size = len(backbone.output_embedding)
            hopeless = hopeless_tokens(tokenizer, tuple(classes), size).to(backbone.device)
        mask = (tokenizer.mask_id, getattr(task, "mask_tokens", 0))
        if task.drafts and rules is None and context.num_queries == 1:
            return _follow(backbone, context, tokenizer, task)
        expansion = _expansion(tokenizer, task) if task.top_tokens > 1 else None
        decoded = greedy(backbone, context, *ids, *mask, rules, hopeless, expansion)
        return _with_compat(backbone, decoded)
    best = beam_search(
        answer_step(backbone, context, limit, rules),
        context.num_rows,
        start_id=tokenizer.start_id,
        end_id=tokenizer.end_id,
        max_length=limit,
        num_beams=task.num_beams,
        temperature=task.temperature,
        length_penalty=task.length_penalty,
        device=backbone.device,
    )
    return Decoded(best.ids, best.scores[:, 0], best.features)


def _follow(backbone: Backbone, context: Context, tokenizer: UFOTokenizer, task: Task) -> Decoded:
    drafts = [ids[1:] for ids in tokenizer.encode(task.drafts)]
    ids = (tokenizer.start_id, tokenizer.end_id, task.max_length)
    found = follow_drafts(backbone, context, drafts, *ids)
    return _with_compat(backbone, Decoded(found.ids, found.first_scores, found.features))


def _with_compat(backbone: Backbone, decoded: Decoded) -> Decoded:
    if backbone.compat.embedding_of_first:
        decoded.features[:, 0] = backbone.embed_tokens(decoded.ids[:, 0])
    return decoded


def _expansion(tokenizer: UFOTokenizer, task: Task) -> Expansion:
    [[_, silent, *_]] = tokenizer.encode([task.wording.background])
    return Expansion(task.top_tokens, task.keep_queries, silent)


def answer_step(backbone: Backbone, context: Context, max_length: int, rules: Grammar | None = None) -> Step:
    """What beam search calls to run one token of each row; rows start as those of the context.

    With `rules` the probabilities are those among the allowed tokens.
    """
    cache, rows = AnswerCache(max_length), context.num_rows
    state = None

    def step(tokens: Tensor, parents: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal context, rows, state
        if cache.length:
            cache.select(parents)
        # all rows of a query share its memory: where no query left, changing places changes nothing
        if len(parents) != rows:
            context, rows = context.select(parents), len(parents)
        hidden = backbone.answer(context, tokens[:, None], cache=cache)[:, -1]  # [R, C]
        logits = F.linear(hidden, backbone.output_embedding)
        if rules is not None:
            start = torch.full_like(tokens, START)
            state = start if state is None else rules.advance(state[parents], tokens)
            logits = rules.forbid(logits, state)
        return logits, hidden

    return step


def greedy(
    backbone: Backbone,
    context: Context,
    start_id: int,
    end_id: int,
    max_length: int,
    mask_id: int = -1,
    mask_tokens: int = 0,
    rules: Grammar | None = None,
    hopeless: Tensor | None = None,
    expansion: Expansion | None = None,
) -> Decoded:
    """The likeliest token at every step, until each row has ended or holds `max_length` tokens.

    Finished rows leave the batch. A row that emits its first `<MASK>` is fed all `mask_tokens` of them at
    once and the chunk is verified: where any of its positions would have said something else, the row goes
    back and takes single steps, so the answers are those of single steps. 0 switches chunks off.

    `rules` allow only some tokens; a row whose first token is `hopeless` (bool `[V]`) ends with it. The
    score is the first token's probability among all tokens in any case. An `expansion` chooses first tokens.
    """
    run = _Greedy(backbone, start_id, end_id, max_length, mask_id, mask_tokens, rules, hopeless, expansion)
    return run(context)


@dataclass
class _Group:
    """Unfinished rows that hold equally many tokens, so that they share a cache and take steps together."""

    rows: Tensor  # int64 [n], places in the result
    context: Context
    cache: AnswerCache
    token: Tensor  # int64 [n], the last token of each row, not fed yet
    length: int  # tokens chosen so far
    state: Tensor | None = None  # int64 [n], of the grammar after `token`

    def select(self, index: Tensor, room: int = 0) -> _Group:
        """Some of the rows, with their own cache unless all stay and it has room for so many tokens."""
        if len(index) == len(self.rows) and room <= self.cache.max_length:
            return self
        cache = _copy(self.cache, index, max(room, self.cache.max_length))
        context = self.context if len(index) == len(self.rows) else self.context.select(index)
        state = None if self.state is None else self.state[index]
        return _Group(self.rows[index], context, cache, self.token[index], self.length, state)


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

    def __init__(
        self,
        backbone,
        start_id,
        end_id,
        max_length,
        mask_id,
        mask_tokens,
        rules=None,
        hopeless=None,
        expansion=None,
    ):
        self.backbone, self.embedding = backbone, backbone.output_embedding
        self.rules, self.hopeless, self.expansion = rules, hopeless, expansion
        self.allowed = None if rules is None else self.embedding[rules.ids]  # [U, C]
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
        queries, state = None, None
        if self.expansion is not None:
            group, hidden, chosen, state, first, queries = self._expand(group, hidden, logits)
        elif self.rules is None:
            chosen = logits.argmax(-1)
        else:
            chosen, state = self.rules.pick(logits[:, self.rules.ids], torch.full_like(token, START))
        if queries is None:
            first = (-F.cross_entropy(logits, chosen, reduction="none")).exp()
        self.ids = torch.full((len(hidden), self.max_length), self.end_id, device=device)
        self.features = hidden.new_zeros(len(hidden), self.max_length, hidden.shape[-1])
        pending = self._choose(group, hidden, chosen, state)
        while pending:
            group, in_chunk = pending.pop()
            pending += self._chunk(group) if in_chunk else self._step(group)
        return Decoded(self.ids, first, self.features, queries)

    def _expand(self, group: _Group, hidden: Tensor, logits: Tensor):
        """Rows that go on from several first tokens: a group of them and what belongs to its rows."""
        queries = group.context.num_queries
        start = torch.full_like(group.token, START)
        if self.rules is not None:
            logits = self.rules.forbid(logits, start)
        rows, chosen, first = self.expansion.pick(logits, queries)
        state = None if self.rules is None else self.rules.advance(start[rows], chosen)
        number = torch.arange(len(rows), device=rows.device)
        group = _Group(number, repeat_rows(group.context, rows), group.cache.copy(rows), group.token[rows], 0)
        return group, hidden[rows], chosen, state, first, rows % queries

    def _feed(self, group: _Group, tokens: Tensor) -> Tensor:
        return self.backbone.answer(group.context, tokens, cache=group.cache)

    def _next(self, hidden: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if self.rules is None:
            return F.linear(hidden, self.embedding).argmax(-1), None
        return self.rules.pick(F.linear(hidden, self.allowed), state)

    def _step(self, group: _Group) -> list[tuple[_Group, bool]]:
        hidden = self._feed(group, group.token[:, None])[:, -1]
        return self._choose(group, hidden, *self._next(hidden, group.state))

    def _choose(
        self, group: _Group, hidden: Tensor, chosen: Tensor, state: Tensor | None
    ) -> list[tuple[_Group, bool]]:
        """Record one token per row; what goes on, split into rows that start a chunk and others."""
        self.ids[group.rows, group.length] = chosen
        self.features[group.rows, group.length] = hidden
        # 0: ends here, 1: goes on, 2: starts a mask
        starts = (chosen == self.mask_id) & (group.token != self.mask_id) & (self.mask_tokens > 1)
        kind = (chosen != self.end_id).int() + starts.int()
        if group.length == 0 and self.hopeless is not None:
            kind = kind.masked_fill(self.hopeless[chosen], 0)
        group.token, group.length, group.state = chosen, group.length + 1, state
        if group.length >= self.max_length:
            return []
        kind = kind.cpu()  # the one synchronisation of a step
        parts = [(k, (kind == k).nonzero()[:, 0]) for k in (1, 2)]
        # later: room for a whole chunk that starts at the last token
        fits = group.cache.length < group.cache.max_length
        room = {1: 0 if fits else self.max_length + self.mask_tokens, 2: self.max_length + self.mask_tokens}
        return [(group.select(index.to(chosen.device), room[k]), k == 2) for k, index in parts if len(index)]

    def _chunk(self, group: _Group) -> list[tuple[_Group, bool]]:
        """Feed a whole mask; rows that would have continued it otherwise take single steps instead."""
        before, count = group.cache.length, self.mask_tokens
        hidden = self._feed(group, group.token[:, None].expand(-1, count))  # [n, K, C]
        states = None if self.rules is None else self.rules.repeat(group.state, self.mask_id, count)
        chosen, after = self._next(hidden, states)
        as_fed = (chosen[:, :-1] == self.mask_id).all(1).cpu()  # the one synchronisation of a chunk
        kept = min(count - 1, self.max_length - group.length)  # tokens that still fit
        good, bad = (part.nonzero()[:, 0].to(chosen.device) for part in (as_fed, ~as_fed))
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
                state = None if after is None else after[good, -1]
                result += self._choose(part, hidden[good, -1], chosen[good, -1], state)
        return result
