"""Trainer options that the trainer does not take, by the option's name: `trainer.limit_val_batches=silly`.

Lightning's own signature says what each option takes. Its constructor compares and converts first, and what
a text then ends in ("'<=' not supported between ...") names no option. Objects, such as a strategy, are left
to it.
"""

from __future__ import annotations

import inspect
import math
import os
import re
import types
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from hydra.utils import get_object

from ufo.ops.nearest import instead

SHARES = ("limit_", "overfit_batches")
"""How the names of the options begin that count batches or are a share of them."""
OURS = frozenset(["val_check_interval", "callbacks", "logger"])
"""Options that this project reads itself."""
NAMES = {"gradient_clip_algorithm": ("norm", "value"), "profiler": ("simple", "advanced", "pytorch", "xla")}
REGISTERED = {
    "accelerator": "lightning.pytorch.accelerators.AcceleratorRegistry.available_accelerators",
    "strategy": "lightning.pytorch.strategies.StrategyRegistry.available_strategies",
}
"""Options whose names Lightning lists, further packages' among them."""
_COPYING = re.compile(r"ddp_(spawn|fork|notebook)")
"""How strategies are called that start their processes after the trainer and the model are made."""
_MAX_TIME = re.compile(r"\d+:\d\d:\d\d:\d\d")
MANY_PROCESSES = 8
"""So many processes of a CPU run are never refused, however few cores there are."""
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
        if key == "precision":
            _check_name(said, value, ["auto", *_literals(hints[key])])
            continue
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
        if isinstance(value, str) and (known := _names_of(key)):
            _check_name(said, value, known)
        if key == "strategy" and isinstance(value, str) and _COPYING.match(value):
            raise ValueError(
                f"{said}={value} copies a prepared training into processes, and this one cannot be copied; "
                "take trainer.strategy=ddp, which runs the whole command in each"
            )
        if key == "max_time" and isinstance(value, str) and not _MAX_TIME.fullmatch(value.strip()):
            raise ValueError(f"{said} must be days:hours:minutes:seconds such as 00:11:30:00, not {value!r}")
        if key == "fast_dev_run" and value < 0:
            raise ValueError(f"{said} must be true, false or a number of batches, not {value!r}")
        if key == "devices" and isinstance(value, str) and not _DEVICES.fullmatch(value):
            raise ValueError(
                f"{said} must be a number of devices, a list of their numbers or auto, not {value!r}"
            )


def check_devices(trainer: Mapping[str, Any]) -> None:
    """Raises ValueError where the machine does not have the devices that are asked for."""
    wanted, accelerator = trainer.get("devices"), trainer.get("accelerator") or "auto"
    if isinstance(wanted, str) and re.fullmatch(r"-?\d+", wanted):
        wanted = int(wanted)
    elif isinstance(wanted, str) and wanted not in ("", "auto"):
        wanted = [int(number) for number in wanted.split(",") if number.strip()]
    if wanted == 0:
        raise ValueError("trainer.devices=0 leaves nothing to train on; ask for at least 1")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if accelerator in ("gpu", "cuda") and not gpus and not torch.backends.mps.is_available():
        raise ValueError(
            f"trainer.accelerator={accelerator}, but PyTorch finds no GPU on this machine; leave it out, or "
            "choose cpu"
        )
    if accelerator in ("gpu", "cuda") or (accelerator == "auto" and gpus):
        there, what = gpus, "GPUs"
    elif accelerator in ("cpu", "auto"):
        there, what = max(os.cpu_count() or 1, MANY_PROCESSES), "processes at most, by its CPU cores,"
    else:
        return
    if isinstance(wanted, list):
        _check_numbers(wanted, gpus if what == "GPUs" else None)
    elif isinstance(wanted, int) and (wanted < -1 or (wanted == -1 and what != "GPUs")):
        raise ValueError(
            f"trainer.devices={wanted} is no number of devices; ask for at least 1, or auto for all of them"
        )
    elif isinstance(wanted, int) and wanted > there:
        raise ValueError(f"trainer.devices={wanted}, but this machine has {there} {what} to train on")


def _check_numbers(wanted: list[Any], gpus: int | None) -> None:
    """Raises ValueError for a list that does not name GPUs of this machine; None: it trains on its CPU."""
    said = f"trainer.devices={wanted}"
    if gpus is None:
        raise ValueError(f"{said} lists numbers of GPUs, and nothing trains on one; ask for a number or auto")
    fine = all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < gpus for n in wanted)
    if not wanted or not fine or len(set(wanted)) < len(wanted):
        raise ValueError(f"{said} must list different GPUs of this machine, which has {gpus}, counted from 0")


def _check_name(said: str, value: Any, known: list[Any]) -> None:
    """Raises ValueError for a value that is none of those known, with the nearest."""
    if value is None or (value in known and not isinstance(value, bool)):
        return
    names = dict.fromkeys(one for one in known if isinstance(one, str) and not one.isdigit())
    raise ValueError(f"{said}={value} is not known; {instead(str(value), names, 'there are')}")


def _names_of(key: str) -> list[str]:
    """The names that an option may have; none where it may have any."""
    if key in REGISTERED:
        return ["auto", *(["gpu"] if key == "accelerator" else []), *get_object(REGISTERED[key])()]
    return list(NAMES.get(key, ()))


def _literals(hint: Any) -> list[Any]:
    """The literal values of a type hint."""
    return [value for one in _allowed(hint) if get_origin(one) is Literal for value in get_args(one)]


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
