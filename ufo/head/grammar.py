"""Constrained decoding: which tokens keep an answer well-formed, as a table of states and tokens.

A task says which answers are well-formed as alternatives of fields of texts (class names, separators, bins,
runs of `<MASK>`); here they become a deterministic automaton.
Shapes: `R` rows, `k` tokens of each, `S` states, `U` tokens that occur in answers, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from ufo.tokenizer import Tokenizer

Fields = tuple[tuple[str, ...], ...]
"""An answer is one text of each field, one after the other."""
START, DEAD = 0, -1
_KEPT = 16


@dataclass(frozen=True)
class Grammar:
    """A deterministic automaton; state 0 is the empty answer."""

    ids: Tensor  # int64 [U], ascending
    table: Tensor  # int64 [S, U], the next state; DEAD where the token is not allowed
    longest: int  # tokens of the longest answer, its end included

    def to(self, device: torch.device | str) -> Grammar:
        return replace(self, ids=self.ids.to(device), table=self.table.to(device))

    def pick(self, logits: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The likeliest allowed token and the state after it.

        logits `[..., U]` of the tokens `ids`, state `[...]`. Returns tokens and states `[...]`.
        """
        following = self.table[state]  # [..., U]
        best = logits.masked_fill(following == DEAD, -torch.inf).argmax(-1)
        return self.ids[best], following.gather(-1, best[..., None])[..., 0]

    def advance(self, state: Tensor, tokens: Tensor) -> Tensor:
        """The states after tokens `[...]`; DEAD once an answer is not well-formed any more."""
        column = torch.searchsorted(self.ids, tokens.contiguous()).clamp(max=len(self.ids) - 1)
        following = self.table[state.clamp(min=0), column]
        return following.masked_fill((self.ids[column] != tokens) | (state == DEAD), DEAD)

    def follow(self, state: Tensor, tokens: Tensor) -> Tensor:
        """The states `[R, k + 1]` before and after each of the tokens `[R, k]`."""
        states = [state]
        for token in tokens.unbind(1):
            states.append(self.advance(states[-1], token))
        return torch.stack(states, 1)

    def forbid(self, logits: Tensor, state: Tensor) -> Tensor:
        """Logits `[R, V]` with -inf for all tokens that are not allowed; rows in the state DEAD stay."""
        allowed = torch.zeros_like(logits, dtype=torch.bool)
        allowed[:, self.ids] = self.table[state.clamp(min=0)] != DEAD
        return logits.masked_fill(~(allowed | (state == DEAD)[:, None]), -torch.inf)


@lru_cache(maxsize=_KEPT)
def grammar_of(tokenizer: Tokenizer, alternatives: tuple[Fields, ...], before: str = "") -> Grammar:
    """The automaton of answers that consist of the fields of one of the alternatives.

    `before` is how the text ends that an answer continues; without it an answer starts anew. Texts that the
    vocabulary cannot write are left out. Raises ValueError where no answer is left.
    """
    tries: dict[tuple[str, tuple[str, ...]], _Node] = {}
    chains = []
    for fields in alternatives:
        # a text has other tokens behind another: some tokenizers put a blank before what begins
        places = list(zip([before, *("".join(texts[:1]) for texts in fields)], fields, strict=False))
        for place in places:
            if place not in tries:
                tries[place] = _trie(_written(tokenizer, *place))
        chains.append([tries[place] for place in places])
    if not all(node.edges or node.ends for chain in chains for node in chain):
        raise ValueError("the vocabulary cannot write a part of the answers; use the model's own tokenizer")
    return _automaton(chains, tokenizer.end_id)


def _written(tokenizer: Tokenizer, before: str, texts: Sequence[str]) -> list[list[int]]:
    """`tokens_behind` of the texts that decoding brings back: nothing unknown, nothing that vanishes."""
    written = tokens_behind(tokenizer, before, texts)
    return [ids for ids, text in zip(written, texts, strict=True) if ids and _is_read(tokenizer, ids, text)]


def tokens_behind(tokenizer: Tokenizer, before: str, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of texts as they stand behind another, or alone where that is empty."""
    if not before:
        return [ids[1:-1] for ids in tokenizer.encode(texts)]
    rows = tokenizer.encode_segments([[(before, False), (text, True)] for text in texts])
    return [[i for i, inside in zip(*row, strict=True) if inside] for row in rows]


def _is_read(tokenizer: Tokenizer, ids: Sequence[int], text: str) -> bool:
    """Whether decoding gives a text back; a blank before it may be a piece of its own, which vanishes."""
    if all(tokenizer.decode([[i] for i in ids])):
        return True
    [whole] = tokenizer.decode([ids])
    return whole.split() == text.split()


@dataclass(frozen=True)
class _Node:
    """A place inside a field's text; equal continuations are one node."""

    edges: tuple[tuple[int, _Node], ...]
    ends: bool


_Key = tuple[tuple[tuple[int, int], ...], bool]
_Place = tuple[int, int, int]
"""Where an answer may be: its alternative, the field, and the identity of the node."""
_FINISHED: _Place = (-1, 0, 0)  # the end token is next
_OVER: _Place = (-1, 1, 0)  # nothing is


def _trie(rows: Sequence[Sequence[int]], shared: dict[_Key, _Node] | None = None) -> _Node:
    """All continuations of a field, with equal ones shared."""
    shared = {} if shared is None else shared
    after: dict[int, list[Sequence[int]]] = {}
    for row in rows:
        if row:
            after.setdefault(row[0], []).append(row[1:])
    edges = tuple((token, _trie(rest, shared)) for token, rest in sorted(after.items()))
    key = (tuple((token, id(node)) for token, node in edges), any(not row for row in rows))
    return shared.setdefault(key, _Node(edges, key[1]))


def _automaton(chains: list[list[_Node]], end_id: int) -> Grammar:
    """Follow all alternatives at once; a state is the set of places that an answer may be at."""
    nothing = _Node((), False)

    def reach(chain: int, field: int, node: _Node) -> dict[_Place, _Node]:
        """A place and the starts of fields that may come next."""
        found = {(chain, field, id(node)): node}
        if node.ends:
            if field + 1 == len(chains[chain]):
                found[_FINISHED] = nothing
            else:
                found |= reach(chain, field + 1, chains[chain][field + 1])
        return found

    places: dict[_Place, _Node] = {}
    for chain in range(len(chains)):
        places |= reach(chain, 0, chains[chain][0])
    numbers, queue = {frozenset(places): START}, [places]
    edges: list[dict[int, int]] = []
    for state in queue:  # grows meanwhile
        following: dict[int, dict[_Place, _Node]] = {}
        for place, node in state.items():
            if place == _FINISHED:
                following.setdefault(end_id, {})[_OVER] = nothing
            for token, child in node.edges:
                following.setdefault(token, {}).update(reach(place[0], place[1], child))
        edges.append({})
        for token, places in following.items():
            key = frozenset(places)
            if key not in numbers:
                numbers[key] = len(queue)
                queue.append(places)
            edges[-1][token] = numbers[key]
    return _tabulate(edges)


def _tabulate(edges: list[dict[int, int]]) -> Grammar:
    """A table of the edges of all states; the answers are finite, so no state comes again."""
    ids = sorted({token for row in edges for token in row})
    column = {token: i for i, token in enumerate(ids)}
    table = torch.full((len(edges), len(ids)), DEAD)
    for state, row in enumerate(edges):
        table[state, [column[t] for t in row]] = torch.tensor(list(row.values()), dtype=torch.int64)
    longest: dict[int, int] = {}

    def length(state: int) -> int:
        if state not in longest:
            longest[state] = max((1 + length(after) for after in edges[state].values()), default=0)
        return longest[state]

    return Grammar(torch.tensor(ids), table, length(START))
