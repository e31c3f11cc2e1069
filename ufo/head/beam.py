"""Beam search over all queries at once: the best whole answers (docs/published_system.md#beam-search).

A hypothesis of n tokens scores Σ log p / (n + 1)^alpha: the sum includes the end token, the length
counts the start token instead. With a large alpha a box outranks the one-word answer `background`.
Shapes: `Q` queries, `K` beams, `R = Q*K` rows, `T` answer tokens, `C` width, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ufo.backbones.base import Backbone
from ufo.backbones.context import AnswerCache, Context
from ufo.head.decoded import Decoded
from ufo.head.grammar import START, Grammar
from ufo.head.strategy import Strategy

NextLogits = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(tokens [R], parents [R]) -> (logits [R, V], features [R, C]): runs one more token of each row.

`parents` are the rows of the last call that these rows continue: one may be repeated, change places within
its query, or be missing.
"""


def beams(backbone: Backbone, context: Context, strategy: Strategy) -> Decoded:
    """Beam search with a backbone, as a strategy with `beams` says."""
    settings = strategy.beams
    assert settings is not None
    return beam_search(
        CachedLogits(backbone, context, strategy.max_length, strategy.grammar),
        context.num_rows,
        start_id=strategy.start_id,
        end_id=strategy.end_id,
        max_length=strategy.max_length,
        num_beams=settings.number,
        temperature=settings.temperature,
        length_penalty=settings.length_penalty,
        device=backbone.device,
    )


class CachedLogits:
    """`NextLogits` of a backbone; the first rows are those of the context.

    With a `grammar` the probabilities are those among the allowed tokens.
    """

    def __init__(self, backbone: Backbone, context: Context, max_length: int, grammar: Grammar | None = None):
        self.backbone, self.context, self.rows = backbone, context, context.num_rows
        self.cache, self.grammar = AnswerCache(max_length), grammar
        self.state: Tensor | None = None  # int64 [R], of the grammar

    def __call__(self, tokens: Tensor, parents: Tensor) -> tuple[Tensor, Tensor]:
        if self.cache.length:
            self.cache = self.cache.select(parents)
        # all rows of a query share its memory: where no query left, changing places changes nothing
        if len(parents) != self.rows:
            self.context, self.rows = self.context.select(parents), len(parents)
        hidden = self.backbone.answer(self.context, tokens[:, None], cache=self.cache)[:, -1]  # [R, C]
        logits = F.linear(hidden, self.backbone.output_embedding)
        if self.grammar is not None:
            start = torch.full_like(tokens, START)
            self.state = start if self.state is None else self.grammar.advance(self.state[parents], tokens)
            logits = self.grammar.forbid(logits, self.state)
        return logits, hidden


@dataclass
class _Depth:
    """One level of the search tree: what each row of one call was fed and where it came from."""

    tokens: Tensor  # int64 [R]
    parents: Tensor  # int64 [R], rows of the level above
    log_probs: Tensor  # float32 [R], of all tokens so far


class _Hypotheses:
    """The K best finished hypotheses of each query, best first, as places in the search tree."""

    def __init__(self, queries: int, beams: int, device: torch.device):
        self.scores = torch.full((queries, beams), -torch.inf, device=device)
        self.depths = torch.zeros(queries, beams, dtype=torch.int64, device=device)
        self.rows = torch.zeros_like(self.depths)

    def add(self, queries: Tensor, scores: Tensor, depth: int, rows: Tensor) -> None:
        """Offer `queries [n]` hypotheses `[n, K]` ending in `rows` of level `depth`; -inf: none."""
        scores, best = torch.cat([self.scores[queries], scores], 1).sort(dim=1, descending=True, stable=True)
        best = best[:, : self.scores.shape[1]]
        self.scores[queries] = scores[:, : self.scores.shape[1]]
        depths = torch.full_like(rows, depth)
        self.depths[queries] = torch.cat([self.depths[queries], depths], 1).gather(1, best)
        self.rows[queries] = torch.cat([self.rows[queries], rows], 1).gather(1, best)


def beam_search(
    next_logits: NextLogits,
    queries: int,
    *,
    start_id: int,
    end_id: int,
    max_length: int,
    num_beams: int,
    temperature: float = 1.0,
    length_penalty: float = 1.0,
    device: torch.device | str = "cpu",
) -> Decoded:
    """The best of `num_beams` hypotheses of every query, with the probability of every token.

    A query stops once it has K hypotheses and its best beam does not promise to beat the worst of
    them; then its rows leave the batch. At `max_length` unfinished beams become hypotheses.

    Args:
        next_logits: the first call has one row per query, later ones `num_beams`.
        queries: Q.
        max_length: tokens that an answer may have, T.
        num_beams, temperature, length_penalty: see `Beams`.

    Raises:
        ValueError: the vocabulary has fewer than 2 * num_beams tokens.
    """
    live = torch.arange(queries, device=device)  # queries that have not finished, [n]
    found = _Hypotheses(queries, num_beams, live.device)
    level = _Depth(torch.full_like(live, start_id), live, torch.zeros(queries, device=device))
    tree, features = [level], []  # the deepest level is never fed and has no features
    for depth in range(max_length):
        logits, hidden = next_logits(level.tokens, level.parents)
        features.append(hidden)
        totals, tokens, rows = _candidates(
            logits, level.log_probs.view(len(live), -1), temperature, 2 * num_beams
        )
        ends = tokens == end_id  # [n, 2K]
        # an end further down the list is worth less than K continuations: not a hypothesis
        finished = totals.masked_fill(~ends, -torch.inf)[:, :num_beams]
        scores = finished / (depth + 1) ** length_penalty
        found.add(live, scores, depth, rows[:, :num_beams])
        # counts neither start nor newest token: stops early, as where the published numbers come from
        bound = totals[:, 0] / max(depth, 1) ** length_penalty
        # the one synchronisation of a step
        going = (found.scores[live, -1] < bound).nonzero()[:, 0]
        # a row ends at most once, so K of 2K candidates go on; the sort is stable: the best K
        best = ends.int().argsort(dim=1, stable=True)[going, :num_beams]  # [n, K]
        totals, tokens, rows = (x[going].gather(1, best).flatten() for x in (totals, tokens, rows))
        live, level = live[going], _Depth(tokens, rows, totals)
        tree.append(level)
        if not len(live):
            break
    last = level.log_probs.view(-1, num_beams) / (max_length + 1) ** length_penalty
    rows = torch.arange(len(level.tokens), device=device).view(-1, num_beams)
    found.add(live, last, max_length, rows)
    return _trace_back(tree, features, found, max_length, end_id)


def _candidates(
    logits: Tensor, so_far: Tensor, temperature: float, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Each query's best continuations, best first: log probabilities, tokens, rows `[n, count]`.

    logits `[R, V]`, log probabilities `so_far [n, R/n]`. No query takes more than `count` from one
    row, so the vocabularies of its rows are never merged.
    """
    rows, vocabulary = logits.shape
    if vocabulary < count:
        raise ValueError(
            f"{count // 2} beams need a vocabulary of {count} tokens and this one has {vocabulary}; "
            f"use num_beams={vocabulary // 2} or fewer"
        )
    totals, tokens = (logits.float() / temperature).log_softmax(1).topk(count, dim=1)  # [R, count]
    totals = (totals + so_far.view(-1, 1)).view(len(so_far), -1)  # [n, R/n * count]
    totals, index = totals.topk(count, dim=1)
    tokens = tokens.view(len(so_far), -1).gather(1, index)
    first = torch.arange(0, rows, so_far.shape[1], device=logits.device)[:, None]
    return totals, tokens, first + index // count


def _trace_back(
    tree: list[_Depth], features: list[Tensor], found: _Hypotheses, length: int, end_id: int
) -> Decoded:
    """Follow each query's best hypothesis from its last token up to the start."""
    depth, queries = found.depths[:, 0], len(found.depths)
    ids = torch.full((queries, length), end_id, device=depth.device)
    scores = torch.ones(queries, length, device=depth.device)
    emitted = features[0].new_zeros(queries, length, features[0].shape[-1])
    row = torch.zeros_like(depth)  # where a hypothesis is shorter than the level: any row, unused
    for level in range(len(tree) - 1, 0, -1):
        here, above = tree[level], tree[level - 1]
        if not len(here.tokens):  # every query had left
            continue
        inside = depth >= level
        row = torch.where(depth == level, found.rows[:, 0], row)
        parent = here.parents[row]
        at = level - 1
        ids[:, at] = torch.where(inside, here.tokens[row], end_id)
        gain = (here.log_probs[row] - above.log_probs[parent]).exp()
        scores[:, at] = torch.where(inside, gain, 1.0)
        emitted[:, at] = torch.where(inside[:, None], features[at][parent], 0.0)
        row = parent
    return Decoded(ids, scores, emitted)
