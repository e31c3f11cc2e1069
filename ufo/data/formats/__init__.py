"""Formats of label tools: one file each, found by its name.

A module here has `ABOUT` (one line), `recognise(source) -> str` (by what it is known, or an empty text) and
`read(source) -> Labels`. It may have `ALIASES` (other names), `ORDER` (lower ones are asked first) and
`write(pictures, out, ...)`, with which `ufo data export` gives predictions back to the tool.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ufo.data.errors import DataError
from ufo.data.labels.reading import Source
from ufo.data.labels.record import Labels
from ufo.ops.nearest import instead

__all__ = ["Format", "format_named", "formats", "recognised"]


@dataclass(frozen=True)
class Format:
    """What one module says."""

    name: str
    module: ModuleType

    @property
    def about(self) -> str:
        """One line for the help."""
        return str(self.module.ABOUT)

    @property
    def names(self) -> tuple[str, ...]:
        """All names that it answers to."""
        return (self.name, self.name.replace("_", ""), *getattr(self.module, "ALIASES", ()))

    @property
    def write(self) -> Callable[..., Any] | None:
        """Writes predictions; None where the format is only read."""
        return getattr(self.module, "write", None)

    @property
    def parts(self) -> bool:
        """Whether one object may have several polygons where predictions are written."""
        return bool(getattr(self.module, "PARTS", False))

    def read(self, source: Source) -> Labels:
        """The labels of a folder or file. Raises DataError."""
        return self.module.read(source)

    def recognise(self, source: Source) -> str:
        """By what the folder or file is known as one of this format, or an empty text."""
        return str(self.module.recognise(source) or "")


def formats() -> dict[str, Format]:
    """All formats by name, those first that are recognised by the surest signs."""
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    found = [Format(name, importlib.import_module(f"{__name__}.{name}")) for name in names]
    return {f.name: f for f in sorted(found, key=lambda f: (getattr(f.module, "ORDER", 50), f.name))}


def format_named(name: str, among: dict[str, Format] | None = None) -> Format:
    """The format of a name in any spelling. DataError with the nearest one if there is none."""
    known = among or formats()
    wanted = name.lower().replace("-", "_").replace(" ", "_")
    for found in known.values():
        if wanted in found.names:
            return found
    names = [
        other for found in known.values() for other in (found.name, *getattr(found.module, "ALIASES", ()))
    ]
    raise DataError(f"There is no format '{name}'; {instead(name, names, 'there are')}")


def recognised(source: Source) -> list[tuple[Format, str]]:
    """The formats that a folder or file may have, the surest first, each with its sign."""
    found = [(known, known.recognise(source)) for known in formats().values()]
    return [(known, sign) for known, sign in found if sign]
