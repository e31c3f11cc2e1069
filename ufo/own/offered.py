"""The command that does the same as a short one, with everything written out: said once it is not refused."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

_offered: list[str] = []


def offer(arguments: Sequence[str]) -> None:
    """Keep the command that does the same with everything written out, for `say_offered`."""
    _offered[:] = ["ufo train " + " ".join(shlex.quote(argument) for argument in arguments)]


def say_offered() -> None:
    """Print that command, once; called when nothing of it is refused any more."""
    while _offered:
        print(f"the same again: {_offered.pop()}", flush=True)


def forget() -> None:
    """Print it no more: the command has ended."""
    _offered.clear()
