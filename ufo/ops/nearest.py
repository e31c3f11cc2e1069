"""What a wrong name probably stands for: the same hint wherever a user names something that is not there."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def instead(name: str, known: Iterable[str], all_of_them: str) -> str:
    """The nearest of the `known` names, or all of them behind the words `all_of_them`."""
    names = sorted(known)
    lowered = {known.lower(): known for known in names}
    close = difflib.get_close_matches(name.lower(), lowered, n=1)
    return f"did you mean '{lowered[close[0]]}'?" if close else f"{all_of_them}: {', '.join(names)}"
