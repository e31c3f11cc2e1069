"""A bar for what takes a while: on a terminal and in a notebook, nowhere else."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

FEW = 3  # up to which a bar would only flicker


def progress_bar(total: int | None, wanted: bool = True) -> Progress:
    """A bar on stderr, if somebody watches it for more than a few images; `total` None: nobody knows it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    watched = console.is_terminal or console.is_jupyter
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not wanted or not watched or (total is not None and total <= FEW),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # lines for a file must not end up on the terminal
    )
