"""A backbone that is a table, and the rules of decoding once more: one answer at a time, with lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ufo.backbones import Backbone, Context, LayerMemory

ROWS = 997  # of the table


class Talker(Backbone):
    """Its states are logits: a function of a row's key and of all tokens that the row was fed.

    `likely` holds a few good successors of each token, so that answers look like answers now and then.
    """

    def __init__(self, vocabulary: int, likely: dict[int, Sequence[int]], seed: int = 0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.randn(ROWS, vocabulary, generator=generator)
        self.good = torch.zeros(vocabulary, vocabulary)
        for token, successors in likely.items():
            self.good[token, list(successors)] = 4.0
        self.calls = 0

    def context(self, keys: Tensor) -> Context:
        """Of images with the queries of these keys `[B, Q]`."""
        own = keys.flatten().float().view(-1, 1, 1, 1)
        return Context(torch.zeros(len(keys), 1, 1, 1), [LayerMemory(own=(own, own))], keys.shape[1])

    def logits(self, key: int, tokens: Sequence[int]) -> Tensor:
        """After these tokens, the start token first, `[V]`."""
        return self._logits(torch.tensor([[key, *tokens]]))[0]

    def _logits(self, prefix: Tensor) -> Tensor:
        code = torch.zeros(len(prefix), dtype=torch.int64)
        for column in prefix.unbind(1):
            code = (code * 31 + column + 1) % ROWS
        return self.table[code] + self.good[prefix[:, -1]]

    def answer(self, context, ids, packed=None, cache=None) -> Tensor:
        self.calls += 1
        begin, fed = cache.length, ids.float()[:, None, :, None]
        fed, _ = cache.extend(0, fed, fed)
        cache.length += ids.shape[1]
        prefix = torch.cat([context.memory[0].own[0][:, 0, :, 0], fed[:, 0, :, 0]], 1).long()
        return torch.stack([self._logits(prefix[:, : begin + 2 + t]) for t in range(ids.shape[1])], 1)

    @property
    def output_embedding(self) -> Tensor:
        return torch.eye(len(self.good))

    @property
    def config(self) -> dict:
        return {}

    def encode(self, images, prompt_ids, prompt_mask, queries=None, causal=False) -> Context:
        raise NotImplementedError("a table sees nothing")


@dataclass
class Plain:
    """One answer: its tokens with the end, the score of the first, what emitted each, its query."""

    tokens: tuple[int, ...]
    score: float
    features: list[Tensor]
    query: int


class PlainDecoder:
    """Greedy decoding and beam search of one query at a time, every step from scratch.

    Args:
        answers: all well-formed answers with their ends, None: any text is.
        leave_after: first tokens after which a greedy answer is over.
    """

    def __init__(
        self,
        logits: Callable[[int, Sequence[int]], Tensor],
        start: int,
        end: int,
        length: int,
        answers: set[tuple[int, ...]] | None = None,
        leave_after: frozenset[int] = frozenset(),
    ):
        self.free_logits, self.start, self.end, self.length = logits, start, end, length
        self.answers, self.leave_after = answers, leave_after

    def logits(self, key: int, tokens: tuple[int, ...]) -> Tensor:
        """Those of tokens that keep an answer well-formed."""
        row = self.free_logits(key, (self.start, *tokens))
        if self.answers is None:
            return row
        allowed = sorted({a[len(tokens)] for a in self.answers if a[: len(tokens)] == tokens and a != tokens})
        return torch.full_like(row, -torch.inf).index_copy(0, torch.tensor(allowed), row[allowed])

    def greedy(self, key: int, query: int, tokens: tuple[int, ...] = (), score: float = 0.0) -> Plain:
        """The likeliest token at every step, after `tokens` that are chosen already."""
        if not tokens:
            first = int(self.logits(key, ()).argmax())
            tokens, score = (first,), float(self.free_logits(key, (self.start,)).softmax(0)[first])
        while tokens[-1] != self.end and len(tokens) < self.length:
            if len(tokens) == 1 and tokens[0] in self.leave_after:
                break
            tokens = (*tokens, int(self.logits(key, tokens).argmax()))
        features = [self.free_logits(key, (self.start, *tokens[:t])) for t in range(len(tokens))]
        return Plain(tokens, score, features, query)

    def expanded(self, keys: Sequence[int], top: int, keep: int, silent: int) -> list[Plain]:
        """The greedy answers of one image that go on from its best pairs of query and token."""
        pairs = []
        for query, key in enumerate(keys):
            probability = self.logits(key, ()).softmax(0)
            probability[silent] = 0
            values, tokens = probability.topk(top)
            pairs += [(p, query, t) for p, t in zip(values.tolist(), tokens.tolist(), strict=True)]
        pairs = sorted(pairs, reverse=True)[: keep or None]
        # where there are fewer possible tokens than `top`, nothing is said
        return [self.greedy(keys[q], q, (t if p > 0 else self.end,), p) for p, q, t in pairs]

    def beams(self, key: int, query: int, beams: int, temperature: float, penalty: float) -> Plain:
        """The best of several hypotheses; its end has no feature."""
        tokens, gains = self.search(key, beams, temperature, penalty)
        features = [self.free_logits(key, (self.start, *tokens[:t])) for t in range(len(tokens))]
        score = float(torch.tensor(gains[0] if gains else 0.0).exp())
        return Plain(tokens, score, features, query)

    def search(self, key: int, beams: int, temperature: float, penalty: float):
        """The winner's tokens and their log probabilities."""
        live, done = [((), ())], []
        for step in range(self.length):
            candidates = []
            for tokens, gains in live:
                row = (self.logits(key, tokens) / temperature).log_softmax(0).tolist()
                candidates += [((*tokens, i), (*gains, g)) for i, g in enumerate(row) if g > -torch.inf]
            candidates.sort(key=lambda beam: -sum(beam[1]))
            for tokens, gains in candidates[:beams]:
                if tokens[-1] == self.end:
                    done.append((sum(gains) / len(tokens) ** penalty, tokens[:-1], gains[:-1]))
            done = sorted(done, reverse=True)[:beams]
            if not candidates:
                return done[0][1:]
            best = sum(candidates[0][1])
            if len(done) == beams and done[-1][0] >= best / max(step, 1) ** penalty:
                return done[0][1:]
            live = [beam for beam in candidates if beam[0][-1] != self.end][:beams]
        done += [(sum(g) / (self.length + 1) ** penalty, t, g) for t, g in live]
        return max(done)[1:]
