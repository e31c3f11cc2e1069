"""Names in messages: what a wrong one probably stands for, and some of many."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path


def instead(name: str, known: Iterable[str], all_of_them: str) -> str:
    """The nearest of the `known` names, or all of them behind the words `all_of_them`."""
    names = sorted(known)
    lowered = {known.lower(): known for known in names}
    close = difflib.get_close_matches(name.lower(), lowered, n=1)
    return f"did you mean '{lowered[close[0]]}'?" if close else f"{all_of_them}: {', '.join(names)}"


def few(names: Sequence[str], most: int, quoted: bool = False) -> str:
    """The first `most` names and how many more there are; of a name at most 60 letters, quotes included."""
    mark = "'" if quoted else ""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"{mark}{name[: 60 - 2 * len(mark)]}{mark}" for name in names[:most]) + more


def beside(path: Path) -> str:
    """A file of a similar name in the same folder, as the end of a sentence; nothing where there is none."""
    try:
        names = [file.name for file in islice(path.parent.iterdir(), 10_000) if file != path]
    except OSError:
        return ""
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean '{path.parent / close[0]}'?" if close else ""
