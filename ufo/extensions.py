"""Packages of others with tasks, data sets and more: docs/extending.md#a-package-of-your-own.

An installed one is an entry point of the group `ufo.extensions`, one that is not installed is named by the
variable UFO_EXTENSIONS. Whoever installs or names a package trusts its code; what a checkpoint or a run names
is not looked for.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import os
import pkgutil
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path

from ufo import places

log = logging.getLogger(__name__)

GROUP = "ufo.extensions"
VARIABLE = "UFO_EXTENSIONS"


class ExtensionError(ValueError):
    """A package cannot be loaded; the message says what to do."""


def names() -> tuple[str, ...]:
    """What the packages are called in an `import`, each once."""
    named = [name.strip() for name in os.environ.get(VARIABLE, "").split(",")]
    return tuple(dict.fromkeys([*_installed(), *filter(None, named)]))


@functools.cache
def _installed() -> tuple[str, ...]:
    return tuple(sorted(entry.module for entry in entry_points(group=GROUP)))


def load() -> None:
    """Import the packages, so that their classes are found by name. Raises ExtensionError."""
    for name in names():
        _load(name)


@functools.cache
def _load(name: str) -> None:
    try:
        _import_all(name)
    except Exception as error:  # whatever the code of a module raises
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            raise ExtensionError(_not_found(name)) from error
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise ExtensionError(f"the package '{name}' ({_named_by(name)}) cannot be imported: {why}") from error


def _import_all(name: str) -> None:
    """A module and, of a package, all modules in it whose name does not begin with `_`."""
    module = importlib.import_module(name)
    for inner in pkgutil.iter_modules(getattr(module, "__path__", ())):
        if not inner.name.startswith("_"):
            _import_all(f"{name}.{inner.name}")


def _named_by(name: str) -> str:
    return f"an installed extension, {GROUP}" if name in _installed() else f"named by {VARIABLE}"


def _not_found(name: str) -> str:
    return (
        f"Python does not find the package '{name}' ({_named_by(name)}); install it, or name the folder that "
        "it is in: PYTHONPATH=FOLDER"
    )


def owns(name: str) -> bool:
    """Whether a module, or what a module holds, is of one of the packages."""
    return any(f"{name}.".startswith(f"{package}.") for package in names())


def config_folders() -> list[Path]:
    """The folders `conf` of the packages that have one. Raises ExtensionError."""
    folders = []
    for name in names():
        try:
            found = importlib.util.find_spec(name)
        except ModuleNotFoundError:  # the package around it
            found = None
        if found is None:
            raise ExtensionError(_not_found(name))
        folders += [Path(place, "conf") for place in found.submodule_search_locations or ()]
    return [folder for folder in folders if folder.is_dir()]


def options(group: str) -> list[str]:
    """What a group of configs offers, here and in the packages, such as the names of all data sets."""
    folders = [places.conf(), *config_folders()]
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})


def say_unnamed(packages: Iterable[str]) -> None:
    """Warn of the packages of a model in training that no command for its weights would find."""
    for package in packages:
        if not owns(package) and not any(f"{name}.".startswith(f"{package}.") for name in names()):
            log.warning(
                "the model needs the package '%s', which no other command looks for: %s",
                package,
                hint(package),
            )


def hint(package: str) -> str:
    """What makes a package known that is not: the end of a sentence."""
    return f"name it in {VARIABLE}={package}, or import it before (docs/extending.md)"
