"""What a `_target_` of a config names: found as Hydra finds it, without the lines that it prints."""

from __future__ import annotations

import difflib
import pkgutil
from importlib import import_module
from types import ModuleType
from typing import Any

_NONE = object()


def find_target(name: Any) -> Any:
    """The class or function at a dotted name. Raises ValueError with the nearest name if there is none."""
    parts = str(name).split(".")
    if not all(parts):
        raise ValueError(
            f"'{name}' names nothing; write a module and what is in it: ufo.tasks.caption.Caption"
        )
    found: Any = _module(parts[0], str(name))
    if found is _NONE:
        raise ValueError(f"there is no '{name}': no package is called '{parts[0]}'")
    for place, part in enumerate(parts[1:], start=1):
        inner = getattr(found, part, _NONE)
        if inner is _NONE and isinstance(found, ModuleType):
            inner = _module(".".join(parts[: place + 1]), str(name))
        if inner is _NONE:
            around = ".".join(parts[:place])
            raise ValueError(
                f"there is no '{name}'; {_instead(part, found, around, place == len(parts) - 1)}"
            )
        found = inner
    return found


def _module(path: str, name: str) -> Any:
    """A module; `_NONE` if there is none. Raises ValueError where one is there and cannot be imported."""
    try:
        return import_module(path)
    except ModuleNotFoundError as error:
        if error.name == path:
            return _NONE
        raise ValueError(f"'{name}' cannot be loaded: {error}") from error
    except Exception as error:  # whatever the code of a module raises
        raise ValueError(f"'{name}' cannot be loaded: {type(error).__name__}: {error}") from error


def _instead(part: str, found: Any, around: str, last: bool) -> str:
    """The nearest name to `part` in a module or class; modules are the second choice for the `last` part."""
    names = [name for name in dir(found) if not name.startswith("_")]
    modules = [module.name for module in pkgutil.iter_modules(getattr(found, "__path__", ()))]
    modules += [name for name in names if isinstance(getattr(found, name, None), ModuleType)]
    code = [name for name in names if name not in modules]
    for known in (code, modules) if last else ([*modules, *code],):
        if close := difflib.get_close_matches(part, sorted(set(known)), n=1):
            return f"did you mean '{around}.{close[0]}'?"
    return f"'{around}' has nothing of that name"
