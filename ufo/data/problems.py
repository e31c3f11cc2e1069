"""What a data set leaves out, and what it uses although it looks wrong: counted and named by kind.

The one place for it: every data set has `problems`. What is found while its files are read is in there once
it is built; what only decoding shows is added by the process that decodes. The start of a training logs it,
`ufo data check` prints it:

    data.problems.left_out    Counter: kind -> annotations, images, records or files that are not used
    data.problems.doubtful    Counter: kind -> those that are used, though changed or probably not as meant
    data.problems.examples    kind -> the first places, at most `EXAMPLES`

Kinds are plain words ("marked as crowd"), the same for every format; numbers belong into the place. What a
kind means and what to do about it stands in the table of `docs/data.md`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

log = logging.getLogger(__name__)

EXAMPLES = 3
"""So many places of each kind are kept."""
LEFT_OUT, DOUBTFUL = "left out", "doubtful"
EFFECTS = {LEFT_OUT: "left out", DOUBTFUL: "used all the same"}
NEGATIVE_SIZE = "box of negative size (corners in another order?)"


class Problems:
    """Counts what is wrong with a data set's files; unless `quiet` logs each kind with its first place."""

    def __init__(self, source: str, quiet: bool = False) -> None:
        self.source, self.quiet = source, quiet
        self._left_out: Counter[str] = Counter()
        self._doubtful: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}
        self._told: set[int] = set()

    @property
    def left_out(self) -> Counter[str]:
        """What is not used, by kind."""
        return self._left_out

    @property
    def doubtful(self) -> Counter[str]:
        """What is used, though changed or probably not as meant, by kind."""
        return self._doubtful

    @property
    def examples(self) -> dict[str, list[str]]:
        """The first places of each kind."""
        return self._examples

    @property
    def counts(self) -> Counter[str]:
        """All kinds, whether they are left out or not."""
        return self.left_out + self.doubtful

    @property
    def first(self) -> dict[str, str]:
        """The first place of each kind."""
        return {kind: places[0] for kind, places in self.examples.items()}

    def report(self, kind: str, where: str, *, effect: str = LEFT_OUT, number: int = 1) -> None:
        """Count `number` problems of `kind`, the first of them at `where`; a kind is logged once."""
        if number < 1:
            return
        new = kind not in self.examples
        (self._left_out if effect == LEFT_OUT else self._doubtful)[kind] += number
        places = self._examples.setdefault(kind, [])
        if len(places) < EXAMPLES:
            places.append(where)
        if new and not self.quiet:
            log.warning("%s: %s, %s (first: %s)", self.source, kind, EFFECTS[effect], where)

    def report_once(self, kind: str, where: str, *, effect: str = LEFT_OUT) -> None:
        """As `report`, for what decoding finds: a place is decoded in every pass, and counts once."""
        key = hash((kind, where))  # a number: the places themselves may be millions of names
        if key not in self._told:
            self._told.add(key)
            self.report(kind, where, effect=effect)

    def record(self) -> dict[str, list[Any]]:
        """Effects, counts and places, as JSON can hold them."""
        return {
            kind: [self.left_out[kind], self.doubtful[kind], places] for kind, places in self.examples.items()
        }

    def restore(self, record: dict[str, list[Any]]) -> None:
        """Report again what an earlier process has found and recorded."""
        for kind, (left_out, doubtful, places) in record.items():
            self.report(kind, places[0], effect=LEFT_OUT, number=left_out)
            self.report(kind, places[0], effect=DOUBTFUL, number=doubtful)
            kept = self._examples[kind]
            kept += [place for place in places if place not in kept][: EXAMPLES - len(kept)]

    def used_after_all(self, kinds: Iterable[str], *, silently: Iterable[str] = ()) -> None:
        """What was left out as one of `kinds` is used, since the task does not need what it lacks.

        Those in `silently` are no problem at all then.
        """
        for kind in kinds:
            number = self._left_out.pop(kind, 0)
            if kind in silently:
                self._examples.pop(kind, None)
            elif number:
                self._doubtful[kind] += number

    def announce(self) -> None:
        """Log each kind with its count and first place; from now on further kinds are logged as they come."""
        for effect, counts in ((LEFT_OUT, self.left_out), (DOUBTFUL, self.doubtful)):
            for kind, number in counts.most_common():
                where = self.first[kind]
                log.warning("%s: %dx %s, %s (first: %s)", self.source, number, kind, EFFECTS[effect], where)
        self.quiet = False

    def close(self) -> None:
        """Log the counts so far in one line, when a data set has been prepared."""
        if self.counts:
            log.warning("%s: %s in all", self.source, self.summary())

    def summary(self) -> str:
        """One line: every kind with its count, or "no problems"."""
        return ", ".join(f"{n}x {kind}" for kind, n in sorted(self.counts.items())) or "no problems"


class JoinedProblems(Problems):
    """The problems of several data sets as those of one; places say which file they are of.

    The parts count on; what is only known of the whole is reported here.
    """

    def __init__(self, source: str, parts: Sequence[Problems]) -> None:
        super().__init__(source, quiet=True)
        self._parts = parts

    @property
    def left_out(self) -> Counter[str]:
        return sum((part.left_out for part in self._parts), Counter(self._left_out))

    @property
    def doubtful(self) -> Counter[str]:
        return sum((part.doubtful for part in self._parts), Counter(self._doubtful))

    @property
    def examples(self) -> dict[str, list[str]]:
        found = {kind: list(places) for kind, places in self._examples.items()}
        for part in self._parts:
            for kind, places in part.examples.items():
                named = [f"{part.source}: {place}" for place in places]
                found[kind] = [*found.get(kind, ()), *named][:EXAMPLES]
        return found
