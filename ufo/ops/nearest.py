"""What a wrong name probably stands for: the same hint wherever a user names something that is not there."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import islice
from pathlib import Path


def instead(name: str, known: Iterable[str], all_of_them: str) -> str:
    """The nearest of the `known` names, or all of them behind the words `all_of_them`."""
    names = sorted(known)
    lowered = {known.lower(): known for known in names}
    close = difflib.get_close_matches(name.lower(), lowered, n=1)
    return f"did you mean '{lowered[close[0]]}'?" if close else f"{all_of_them}: {', '.join(names)}"


def beside(path: Path) -> str:
    """A file of a similar name in the same folder, as the end of a sentence; nothing where there is none."""
    try:
        names = [file.name for file in islice(path.parent.iterdir(), 10_000) if file != path]
    except OSError:
        return ""
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean '{path.parent / close[0]}'?" if close else ""
