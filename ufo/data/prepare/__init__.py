"""Conversions: from a data set as it is downloaded to what its `conf/dataset/*.yaml` reads.

One file per data set here; a conversion registers itself with `@preparation` and is found by its name.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ufo.data.errors import DataError

__all__ = ["Preparation", "preparation", "preparations"]

Run = Callable[[Path, Path, int], None]
_FOUND: dict[str, Preparation] = {}


@dataclass(frozen=True)
class Preparation:
    """A conversion of one data set."""

    name: str
    function: Run
    out: str  # where it writes by default, below the data folder
    about: str  # one line

    def run(self, root: str | Path, out: str | Path | None = None, workers: int = 1) -> None:
        """Convert what lies below the data folder `root` (the `paths.data` of the configs).

        Args:
            root: the folder that holds all data sets.
            out: folder to write; by default where the data set's config expects it.
            workers: processes. Files do not depend on it. What an interrupted run has finished is kept.

        Raises DataError if a file is missing or unusable.
        """
        if workers < 1:
            raise DataError(f"`workers` must be at least 1, not {workers}.")
        root = Path(root)
        self.function(root, Path(out) if out else root / self.out, workers)


def preparation(name: str, out: str) -> Callable[[Run], Run]:
    """Register `function(root, out, workers)` as a conversion described by its docstring's first line."""

    def register(function: Run) -> Run:
        about = (function.__doc__ or "").strip().partition("\n")[0]
        _FOUND[name] = Preparation(name, function, out, about)
        return function

    return register


def preparations() -> dict[str, Preparation]:
    """All conversions by name."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return dict(sorted(_FOUND.items()))
