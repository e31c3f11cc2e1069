"""Trainer options of a wrong type, by the option's name: `trainer.limit_val_batches=silly`.

Lightning's own signature says what each option takes. Its constructor compares and converts first, and what
a text then ends in ("'<=' not supported between ...") names no option. Objects, such as a strategy, are left
to it.
"""

from __future__ import annotations

import inspect
import math
import re
import types
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hydra.utils import get_object

SHARES = ("limit_", "overfit_batches")
"""How the names of the options begin that count batches or are a share of them."""
OURS = frozenset(["precision", "val_check_interval", "callbacks", "logger"])
"""Options that this project reads itself."""
_DEVICES = re.compile(r"auto|-?\d+(,\s*\d+)*,?")
_WORDS: dict[type, str] = {
    bool: "true or false", int: "a whole number", float: "a number", str: "a text", list: "a list",
    dict: "a mapping",
}  # fmt: skip


def check_trainer(settings: Mapping[str, Any]) -> None:
    """Raises ValueError for the first option whose value is of no type that the trainer takes."""
    make = get_object(settings["_target_"])
    hints = get_type_hints(make.__init__) if inspect.isclass(make) else {}
    for key, value in settings.items():
        if key in OURS or key not in hints or _elsewhere(value):
            continue
        said = f"trainer.{key}"
        if key.startswith(SHARES):
            if value is not None and not _counts(value):
                raise ValueError(
                    f"{said} must be a whole number of batches, or a share of all of them from 0.0 to 1.0, "
                    f"not {value!r}"
                )
            continue
        allowed = list(_allowed(hints[key]))
        if not any(_is(value, one) for one in allowed):
            names = dict.fromkeys(_name(one) for one in allowed)
            raise ValueError(f"{said} must be {' or '.join(filter(None, names))}, not {value!r}")
        if key == "devices" and isinstance(value, str) and not _DEVICES.fullmatch(value):
            raise ValueError(
                f"{said} must be a number of devices, a list of their numbers or auto, not {value!r}"
            )


def _elsewhere(value: Any) -> bool:
    """Whether a value is an object, several of them, or a reference that is still to be resolved."""
    if isinstance(value, list):
        return any(_elsewhere(one) for one in value)
    return (isinstance(value, dict) and "_target_" in value) or (isinstance(value, str) and "${" in value)


def _counts(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return value >= 0 if isinstance(value, int) else 0 <= value <= 1


def _allowed(hint: Any) -> Iterator[Any]:
    """The types and literal values of a type hint that a yaml can hold."""
    if get_origin(hint) in (Union, types.UnionType):
        for one in get_args(hint):
            yield from _allowed(one)
    elif get_origin(hint) is Literal or hint in (types.NoneType, *_WORDS):
        yield hint
    elif get_origin(hint) in (list, dict):
        yield get_origin(hint)


def _is(value: Any, allowed: Any) -> bool:
    if get_origin(allowed) is Literal:
        return value in get_args(allowed)
    if allowed is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if allowed is int and isinstance(value, bool):
        return False
    return isinstance(value, allowed)


def _name(allowed: Any) -> str:
    if get_origin(allowed) is Literal:
        return " or ".join(map(str, get_args(allowed)))
    return "null" if allowed is types.NoneType else _WORDS[allowed]
