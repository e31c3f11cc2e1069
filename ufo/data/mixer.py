"""Which images make the next batch: one source per batch, the same on every rank.

Everything is a function of (seed, step): Philox, a counter-based generator, is keyed by the seed
and counted by the step: no global random state is read or changed, a run can start at any step.
`S` streams (one per source and orientation group), `W` ranks, `B` images per rank.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Sampler

log = logging.getLogger(__name__)

BLOCK = 1 << 16  # steps drawn at once when a position is replayed
DRAW, SEEDS, STREAMS = 0, 1, 2  # purposes: independent generators of one seed


class Key(NamedTuple):
    """One image of a training batch."""

    source: int  # index into the mixture
    # of the source's training data
    index: int  # type: ignore[assignment]  # hides a tuple's own index(), which nobody calls
    seed: int  # of this image's augmentation
    batch_seed: int  # the same for all images of this rank's batch


@dataclass
class Entry:
    """What the sampler knows of one source: a batch never mixes its `groups` of indices."""

    name: str
    weight: float
    batch_size: int
    groups: Sequence[np.ndarray]

    def __len__(self) -> int:
        return sum(len(group) for group in self.groups)


class MixtureSampler(Sampler[list[Key]]):
    """Batch sampler over a mixture; yields this rank's keys of every step, endlessly.

    The source of a step is drawn by weight, its group by size. Each (source, group) is an endless
    stream of permutations; a step takes the next `B * W` elements and rank `r` every `W`-th from
    `r` on. So ranks never share an image within a pass, and two ranks with batch `B` see together
    exactly what one rank with batch `2B` sees, with the same augmentation seeds.

    Args:
        entries: the mixture.
        seed: of everything; the same on all ranks.
        rank, world_size: of the data-parallel group.
        max_steps: batches per rank in one iteration from step 0, or `None` for an endless one.

    Raises:
        ValueError: no entry, duplicate names, or no positive weight.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        max_steps: int | None = None,
    ) -> None:
        shares = effective_shares(entries)
        self.entries = list(entries)
        self.seed, self.rank, self.world_size = int(seed), rank, world_size
        self.max_steps = max_steps
        self.step = 0  # where the next iteration starts
        self._streams = [
            (s, group, zlib.crc32(f"{e.name}:{g}".encode()))
            for s, e in enumerate(self.entries)
            for g, group in enumerate(e.groups)
        ]
        p = np.concatenate(
            [
                share * np.array([len(g) for g in e.groups]) / len(e)
                for share, e in zip(shares, self.entries, strict=True)
            ]
        )
        self._cumulative = np.cumsum(p) / p.sum()
        self._taken = np.array([self.entries[s].batch_size * world_size for s, *_ in self._streams])
        # a replay starts here: (step, elements taken from each stream before it)
        self._origin = (0, np.zeros(len(self._streams), dtype=np.int64))
        self._passes: dict[int, tuple[int, np.ndarray]] = {}

    def __len__(self) -> int:
        """Number of batches of a whole run; TypeError if it is endless."""
        if self.max_steps is None:
            raise TypeError("An endless mixture has no length.")
        return self.max_steps

    def __iter__(self) -> Iterator[list[Key]]:
        step, positions = self.step, self.positions(self.step)
        # with a length, iterations end at its multiples: one that starts at the end is not empty
        end = None if self.max_steps is None else (step // self.max_steps + 1) * self.max_steps
        while end is None or step < end:
            stop = step + BLOCK // 64 if end is None else min(end, step + BLOCK // 64)
            for k in self._draw(step, stop).tolist():
                yield self._batch(step, k, int(positions[k]))
                positions[k] += self._taken[k]
                step += 1

    def positions(self, step: int) -> np.ndarray:
        """Elements taken from each stream before `step`, over all ranks: int64 [S]."""
        start, positions = self._origin
        if step < start:
            raise ValueError(f"The mixture starts at step {start} and cannot go back to {step}.")
        positions = positions.copy()
        for block in range(start, step, BLOCK):
            drawn = self._draw(block, min(step, block + BLOCK))
            positions += np.bincount(drawn, minlength=len(positions)) * self._taken
        return positions

    def state_dict(self, step: int | None = None) -> dict[str, Any]:
        """The position after `step` batches (default: where the next iteration starts)."""
        step = self.step if step is None else step
        drawn: dict[str, list[int]] = {e.name: [] for e in self.entries}
        for (s, *_), n in zip(self._streams, self.positions(step).tolist(), strict=True):
            drawn[self.entries[s].name].append(n)
        return {"step": step, "seed": self.seed, "drawn": drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the batches of `state`.

        The mixture may have changed since (weights, batch sizes, number of ranks, sources): what it
        still contains goes on from the images already seen, new sources start afresh.
        """
        if state["seed"] != self.seed:
            log.warning(
                "The checkpoint's data seed is %s, this run draws its batches with %s.",
                state["seed"],
                self.seed,
            )
        drawn = state["drawn"]
        seen: list[int] = []
        for e in self.entries:
            old = drawn.get(e.name, [])
            seen += old if len(old) == len(e.groups) else [0] * len(e.groups)
        self.step = int(state["step"])
        self._origin = (self.step, np.array(seen, dtype=np.int64))

    def describe(self) -> list[tuple[str, float, int, int]]:
        """Rows (name, share of the batches, training samples, batch size per rank)."""
        shares = effective_shares(self.entries)
        return [(e.name, share, len(e), e.batch_size) for share, e in zip(shares, self.entries, strict=True)]

    def _draw(self, start: int, stop: int) -> np.ndarray:
        """The streams of steps `start` to `stop`: int64 [stop - start]."""
        # one counter value of Philox makes four words: step t owns the words of counter t
        words = _words((self.seed, DRAW), start, 4 * (stop - start))[::4]
        return np.searchsorted(self._cumulative, (words >> 11) * 2.0**-53, side="right")

    def _batch(self, step: int, stream: int, first: int) -> list[Key]:
        """This rank's keys of `step`; the step's images begin at element `first` of its stream."""
        source, group, _ = self._streams[stream]
        taken = int(self._taken[stream])
        mine = np.arange(self.rank, taken, self.world_size)
        # per image of the global batch, then per rank; 63 bits are a valid seed everywhere
        seeds = _words((self.seed, SEEDS), step << 64, taken + self.world_size) >> 1
        batch_seed = int(seeds[taken + self.rank])
        indices = group[self._elements(stream, first + mine)]
        return [
            Key(source, i, s, batch_seed) for i, s in zip(indices.tolist(), seeds[mine].tolist(), strict=True)
        ]

    def _elements(self, stream: int, positions: np.ndarray) -> np.ndarray:
        """Elements of a stream's concatenated permutations at ascending `positions`."""
        size = len(self._streams[stream][1])
        passes, places = np.divmod(positions, size)
        out = np.empty_like(positions)
        for n in np.unique(passes).tolist():
            here = passes == n
            out[here] = self._permutation(stream, n, size)[places[here]]
        return out

    def _permutation(self, stream: int, n: int, size: int) -> np.ndarray:
        if self._passes.get(stream, (None,))[0] != n:
            key = STREAMS + self._streams[stream][2]
            # not Generator.permutation: that one may change between NumPy versions
            words = _words((self.seed, key), n << 64, size)
            self._passes[stream] = (n, np.argsort(words, kind="stable"))
        return self._passes[stream][1]


def effective_shares(entries: Sequence[Any]) -> list[float]:
    """Share of the batches of each entry (anything with `name` and `weight`); they sum to 1.

    Raises:
        ValueError: no entry, two of one name, a negative weight, or no positive one.
    """
    if not entries:
        raise ValueError("The mixture has no sources; name at least one, e.g. with mixture=five_task.")
    names = [e.name for e in entries]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise ValueError(f"Two sources of the mixture are called {twice[0]!r}; rename one.")
    if wrong := [e for e in entries if not e.weight >= 0]:
        raise ValueError(f"Source {wrong[0].name!r}: weight must be zero or positive, not {wrong[0].weight}.")
    total = sum(e.weight for e in entries)
    if not total > 0:
        raise ValueError(
            f"All weights of the mixture are zero ({', '.join(names)}); give at least one source a "
            "positive weight."
        )
    return [e.weight / total for e in entries]


def _words(key: tuple[int, int], counter: int, n: int) -> np.ndarray:
    """`n` random uint64 words of the Philox generator with this key, from this counter on."""
    key64 = np.array([k % 2**64 for k in key], dtype=np.uint64)
    return np.random.Philox(key=key64, counter=counter).random_raw(n)
