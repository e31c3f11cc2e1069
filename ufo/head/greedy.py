"""Greedy decoding of all rows at once: the likeliest token at every step (paper section 3.4).

Rows that hold equally many tokens form a group, which shares a cache and takes its steps together. Rows that
have ended leave; rows with a guess of what they say next part from those without. All parts of a `Strategy`
but its beams take effect here.
Shapes: `R` answer rows, `n` rows of a group, `k` tokens fed to each, `T` answer tokens, `C` width, `V`
vocabulary, `U` tokens of a grammar.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ufo.backbones.base import Backbone
from ufo.backbones.context import AnswerCache, Context
from ufo.head.decoded import Decoded
from ufo.head.expand import Expansion, repeat_rows
from ufo.head.grammar import DEAD, START
from ufo.head.guesses import agreed, guess
from ufo.head.strategy import Strategy

_ONE_WORD = 2  # tokens fed to a row that says one word: the start and the word


def greedy(backbone: Backbone, context: Context, strategy: Strategy) -> Decoded:
    """The likeliest token at every step, until each row has ended or holds `max_length` tokens.

    The score is the probability of the first token among all tokens, also under a grammar.
    """
    return _Greedy(backbone, strategy).run(context)


@dataclass
class _Group:
    """Unfinished rows that hold equally many tokens."""

    rows: Tensor  # int64 [n], places in the result
    context: Context
    cache: AnswerCache
    fed: Tensor  # int64 [n, k], the last token of each row and guesses of the next ones; not in the cache yet
    length: int  # tokens chosen so far
    state: Tensor  # int64 [n], of the grammar after the last token; START without a grammar


@dataclass
class _Choice:
    """What a call chose for its group."""

    hidden: Tensor  # [n, k, C]
    tokens: Tensor  # int64 [n, k]
    states: Tensor  # int64 [n, k], of the grammar after each token


class _Greedy:
    """The state of one `greedy` call."""

    def __init__(self, backbone: Backbone, strategy: Strategy):
        self.backbone, self.strategy = backbone, strategy
        self.embedding, grammar = backbone.output_embedding, strategy.grammar
        # only tokens that the grammar knows are compared: [V, C] or [U, C]
        self.candidates = self.embedding if grammar is None else self.embedding[grammar.ids]

    def run(self, context: Context) -> Decoded:
        group, choice, scores, queries, refusals = self._first_step(context)
        rows, length = len(group.rows), self.strategy.max_length
        self.ids = torch.full((rows, length), self.strategy.end_id, device=scores.device)
        self.features = choice.hidden.new_zeros(rows, length, choice.hidden.shape[-1])
        pending = self._record(group, choice)
        while pending:
            group = pending.pop()
            hidden = self._feed(group)
            pending += self._record(group, self._choose(group, hidden, F.linear(hidden, self.candidates)))
        return Decoded(self.ids, scores[:, None], self.features, queries, refusals)

    def _first_step(self, context: Context) -> tuple[_Group, _Choice, Tensor, Tensor | None, Tensor | None]:
        """All rows, their first tokens, the scores of these `[R]`, and the queries where rows were added.

        The last is how likely each row refuses, `[R]`; None where rows do not.
        """
        group, grammar, expansion = self._first_group(context), self.strategy.grammar, self.strategy.expansion
        hidden = self._feed(group)
        logits = F.linear(hidden, self.embedding)  # [R, k, V]
        if expansion is not None:
            return *self._expand(group, hidden, logits[:, 0].float(), expansion), None
        allowed, refusals, refusal = logits, None, self.strategy.refusal
        if refusal is not None:
            refusals = logits[:, 0].float().softmax(-1)[:, refusal]
            allowed = logits.clone()
            allowed[:, 0, refusal] = -torch.inf
        choice = self._choose(group, hidden, allowed if grammar is None else allowed[..., grammar.ids])
        nll = F.cross_entropy(logits[:, 0].float(), choice.tokens[:, 0], reduction="none")
        return group, choice, (-nll).exp(), None, refusals

    def _first_group(self, context: Context) -> _Group:
        strategy, rows, device = self.strategy, context.num_rows, self.backbone.device
        first = next((way.first for way in strategy.guesses if way.first), ())
        if strategy.expansion is not None:  # chooses first tokens in its own way
            first = ()
        fed = torch.tensor([strategy.start_id, *first[: strategy.max_length - 1]])
        fed = fed.to(device, non_blocking=True)  # the prefix may still be computed
        # most rows say one word and end; the others get memory for a whole answer when those have left
        cache = AnswerCache(strategy.max_length if first else _ONE_WORD)
        number = torch.arange(rows, device=device)
        return _Group(number, context, cache, fed.expand(rows, -1), 0, torch.full_like(number, START))

    def _feed(self, group: _Group) -> Tensor:
        return self.backbone.answer(group.context, group.fed, cache=group.cache)

    def _choose(self, group: _Group, hidden: Tensor, logits: Tensor) -> _Choice:
        """The likeliest token after each one that was fed; logits `[n, k, V]`, with a grammar `[n, k, U]`."""
        grammar = self.strategy.grammar
        if grammar is None:
            tokens = logits.argmax(-1)
            return _Choice(hidden, tokens, group.state[:, None].expand_as(tokens))
        tokens, states = grammar.pick(logits, grammar.follow(group.state, group.fed[:, 1:]))
        return _Choice(hidden, tokens, states)

    def _expand(
        self, group: _Group, hidden: Tensor, logits: Tensor, expansion: Expansion
    ) -> tuple[_Group, _Choice, Tensor, Tensor]:
        """Rows that go on from several first tokens, their scores and the query of each."""
        grammar, queries = self.strategy.grammar, group.context.num_queries
        if grammar is not None:
            logits = grammar.forbid(logits, group.state)
        rows, chosen, first = expansion.pick(logits, queries)
        before = group.state[rows]
        after = before
        if grammar is not None:
            after = grammar.advance(before, chosen)
            # where fewer first tokens are allowed than rows asked for, the others say nothing
            chosen = chosen.masked_fill(after == DEAD, self.strategy.end_id)
        number = torch.arange(len(rows), device=rows.device)
        context, cache = repeat_rows(group.context, rows), group.cache.select(rows)
        group = _Group(number, context, cache, group.fed[rows], 0, before)
        return group, _Choice(hidden[rows], chosen[:, None], after[:, None]), first, rows % queries

    def _record(self, group: _Group, choice: _Choice) -> list[_Group]:
        """Write down what stands of a choice; the groups that go on."""
        strategy, begin, fed = self.strategy, group.length, group.fed.shape[1]
        ends = choice.tokens == strategy.end_id
        if begin == 0 and strategy.leave_after is not None:
            ends[:, 0] |= strategy.leave_after[choice.tokens[:, 0]]
        if fed == 1:
            self.ids[group.rows, begin] = choice.tokens[:, 0]
            self.features[group.rows, begin] = choice.hidden[:, 0]
            kept = torch.ones_like(group.rows)
        else:
            kept = agreed(group.fed, choice.tokens, ends)
            wrong = torch.arange(fed, device=kept.device) >= kept[:, None]
            here = group.rows[:, None], torch.arange(begin, begin + fed, device=kept.device)
            self.ids[here] = choice.tokens.masked_fill(wrong, strategy.end_id)
            self.features[here] = choice.hidden.masked_fill(wrong[..., None], 0)
        if begin + 1 >= strategy.max_length:
            return []
        going = ~ends.gather(1, kept[:, None] - 1)[:, 0] & (begin + kept < strategy.max_length)
        return self._split(group, choice, kept, going)

    def _split(self, group: _Group, choice: _Choice, kept: Tensor, going: Tensor) -> list[_Group]:
        """The rows that are `going` on, by how many tokens they `kept` and whether there is a guess."""
        length = group.length + kept
        guesses, count = guess(self.strategy.guesses, self.ids[group.rows], length)
        # the last token that fits is chosen and never fed
        count = torch.minimum(count, self.strategy.max_length - 1 - length)
        steps, count = torch.stack([kept * going, count]).cpu()  # the one synchronisation of a call
        parts = []
        for step in steps.unique().tolist():
            here = steps == (step or -1)  # 0: rows that leave
            for some in (here & (count <= 0), here & (count > 0)):
                rows = some.nonzero()[:, 0]
                if len(rows):
                    parts.append(self._part(group, choice, rows, step, guesses, count[rows]))
        return parts

    def _part(
        self, group: _Group, choice: _Choice, rows: Tensor, step: int, guesses: Tensor, count: Tensor
    ) -> _Group:
        """Some rows of a group, all of which keep `step` tokens and have `count [n]` guesses."""
        number = max(int(count.max()), 0)
        # a row with fewer guesses than others is fed end tokens: what would follow them is never kept
        beyond = (torch.arange(number) >= count[:, None]).to(group.rows.device)
        everyone, rows = len(rows) == len(group.rows), rows.to(group.rows.device)
        guessed = guesses[rows, :number].masked_fill(beyond, self.strategy.end_id)
        fed = torch.cat([choice.tokens[rows, step - 1, None], guessed], 1)
        cache, length = group.cache, group.cache.length - group.fed.shape[1] + step
        fits = length + fed.shape[1] <= cache.max_length
        if everyone and fits:
            cache.length = length
        else:
            cache = cache.select(rows, length, cache.max_length if fits else self.strategy.max_length)
        context = group.context if everyone else group.context.select(rows)
        state = choice.states[rows, step - 1]
        return _Group(group.rows[rows], context, cache, fed, group.length + step, state)
