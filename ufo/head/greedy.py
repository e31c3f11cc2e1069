"""Greedy decoding of all rows at once: the likeliest token at every step (paper section 3.4).

Rows that hold equally many tokens form a group, which shares a cache and takes its steps together. Rows that
have ended leave; rows with a guess of what they say next part from those without. All parts of a `Strategy`
but its beams take effect here. Which rows those are is decided on the host, from the one transfer of a call:
on a GPU every small piece of such a decision would cost as much as a layer's product.
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

    rows: Tensor  # int64 [n], places in the result, on the host
    places: Tensor | None  # the same on the device; None: all
    context: Context
    cache: AnswerCache
    fed: Tensor  # int64 [n, k], the last token of each row and guesses of the next ones; not in the cache yet
    guessed: Tensor  # int64 [n, k-1], the guesses on the host
    length: int  # tokens chosen so far
    state: Tensor | None  # int64 [n], of the grammar after the last token


@dataclass
class _Choice:
    """What a call chose for its group."""

    hidden: Tensor  # [n, k, C]
    tokens: Tensor  # int64 [n, k]
    states: Tensor | None  # int64 [n, k], of the grammar after each token


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
        self.ids = torch.full((rows, length), self.strategy.end_id)  # on the host
        self.features = choice.hidden.new_zeros(rows, length, choice.hidden.shape[-1])
        pending = self._record(group, choice)
        while pending:
            group = pending.pop()
            hidden = self._feed(group)
            pending += self._record(group, self._choose(group, hidden, F.linear(hidden, self.candidates)))
        ids = self.ids.to(scores.device, non_blocking=True)
        return Decoded(ids, scores[:, None], self.features, queries, refusals)

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
        line = torch.tensor([strategy.start_id, *first[: strategy.max_length - 1]]).expand(rows, -1)
        fed = line[:1].to(device, non_blocking=True).expand(rows, -1)  # the prefix may still be computed
        # most rows say one word and end; the others get memory for a whole answer when those have left
        cache = AnswerCache(strategy.max_length if first else _ONE_WORD)
        state = None if strategy.grammar is None else torch.full((rows,), START, device=device)
        return _Group(torch.arange(rows), None, context, cache, fed, line[:, 1:], 0, state)

    def _feed(self, group: _Group) -> Tensor:
        return self.backbone.answer(group.context, group.fed, cache=group.cache)

    def _choose(self, group: _Group, hidden: Tensor, logits: Tensor) -> _Choice:
        """The likeliest token after each one that was fed; logits `[n, k, V]`, with a grammar `[n, k, U]`."""
        grammar = self.strategy.grammar
        if grammar is None or group.state is None:
            return _Choice(hidden, logits.argmax(-1), None)
        tokens, states = grammar.pick(logits, grammar.follow(group.state, group.fed[:, 1:]))
        return _Choice(hidden, tokens, states)

    def _expand(
        self, group: _Group, hidden: Tensor, logits: Tensor, expansion: Expansion
    ) -> tuple[_Group, _Choice, Tensor, Tensor]:
        """Rows that go on from several first tokens, their scores and the query of each."""
        grammar, queries = self.strategy.grammar, group.context.num_queries
        if grammar is not None and group.state is not None:
            logits = grammar.forbid(logits, group.state)
        rows, chosen, first = expansion.pick(logits, queries)
        before = after = None
        if grammar is not None and group.state is not None:
            before = group.state[rows]
            after = grammar.advance(before, chosen)
            # where fewer first tokens are allowed than rows asked for, the others say nothing
            chosen = chosen.masked_fill(after == DEAD, self.strategy.end_id)
            after = after[:, None]
        context, cache = repeat_rows(group.context, rows), group.cache.select(rows)
        number, guessed = torch.arange(len(rows)), group.guessed[:1].expand(len(rows), -1)
        group = _Group(number, None, context, cache, group.fed[rows], guessed, 0, before)
        return group, _Choice(hidden[rows], chosen[:, None], after), first, rows % queries

    def _record(self, group: _Group, choice: _Choice) -> list[_Group]:
        """Write down what stands of a choice; the groups that go on."""
        strategy, begin, fed = self.strategy, group.length, group.fed.shape[1]
        said = choice.tokens.cpu()  # the one synchronisation of a call
        ends = said == strategy.end_id
        if begin == 0 and strategy.leave_after is not None:
            ends[:, 0] |= strategy.leave_after[said[:, 0]]
        kept, hidden = torch.ones_like(group.rows), choice.hidden
        if fed > 1:
            kept = agreed(group.guessed, said, ends)
            wrong = torch.arange(fed) >= kept[:, None]
            said = said.masked_fill(wrong, strategy.end_id)
            hidden = hidden.masked_fill(wrong.to(hidden.device, non_blocking=True)[..., None], 0)
        self.ids[group.rows, begin : begin + fed] = said
        written = slice(None) if group.places is None else group.places
        self.features[written, begin : begin + fed] = hidden
        if begin + 1 >= strategy.max_length:
            return []
        if not strategy.guesses:  # all rows stay equally long
            rows = (~ends[:, 0]).nonzero()[:, 0]
            return [self._part(group, choice, rows, 1, group.guessed[rows])] if len(rows) else []
        going = ~ends.gather(1, kept[:, None] - 1)[:, 0] & (begin + kept < strategy.max_length)
        return self._split(group, choice, kept, going)

    def _split(self, group: _Group, choice: _Choice, kept: Tensor, going: Tensor) -> list[_Group]:
        """The rows that are `going` on, by how many tokens they `kept` and whether there is a guess."""
        length = group.length + kept
        guesses, count = guess(self.strategy.guesses, self.ids[group.rows], length)
        # the last token that fits is chosen and never fed
        count = torch.minimum(count, self.strategy.max_length - 1 - length).clamp(min=0)
        # a row with fewer guesses than others is fed end tokens: what would follow them is never kept
        none = torch.arange(guesses.shape[1]) >= count[:, None]
        guesses = guesses.masked_fill(none, self.strategy.end_id)
        parts = []
        for step in kept[going].unique().tolist():
            here = going & (kept == step)
            for some in (here & (count == 0), here & (count > 0)):
                rows = some.nonzero()[:, 0]
                if len(rows):
                    fed = guesses[rows, : int(count[rows].max())]
                    parts.append(self._part(group, choice, rows, step, fed))
        return parts

    def _part(self, group: _Group, choice: _Choice, rows: Tensor, step: int, guesses: Tensor) -> _Group:
        """Rows `[n]` of a group, all of which keep `step` tokens and are fed `guesses [n, G]` behind them."""
        cache, length = group.cache, group.cache.length - group.fed.shape[1] + step
        fed, context, places, state = choice.tokens[:, step - 1, None], group.context, group.places, None
        if choice.states is not None:
            state = choice.states[:, step - 1]
        here, everyone = None, len(rows) == len(group.rows)
        if not everyone:
            here = rows.to(fed.device, non_blocking=True)
            fed, context = fed[here], context.select(here)
            places = here if places is None else places[here]
            state = None if state is None else state[here]
        number = guesses.shape[1]
        fits = length + 1 + number <= cache.max_length
        if here is None and fits:
            cache.length = length
        else:
            here = torch.arange(len(rows), device=fed.device) if here is None else here
            cache = cache.select(here, length, cache.max_length if fits else self.strategy.max_length)
        if number:
            fed = torch.cat([fed, guesses.to(fed.device, non_blocking=True)], 1)
        return _Group(group.rows[rows], places, context, cache, fed, guesses, group.length + step, state)
