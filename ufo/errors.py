"""What an exception says to a user: one sentence that names what to write instead.

Hydra and OmegaConf explain a mistake in several lines, with a listing of every option and of their own
state. `sentence` keeps what was wrong and adds the nearest name that exists.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterable
from typing import Any

from hydra.errors import (
    ConfigCompositionException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from ufo.ops.nearest import instead
from ufo.ops.targets import find_target

_UNSET_GROUP = re.compile(r"Could not override '(.+?)'\.\s*No match.*use (\+\S+)", re.DOTALL)
ELSEWHERE = {
    "batch": "sources.NAME.batch_size",
    "device": "trainer.accelerator",
    "epochs": "trainer.max_steps",
    "imgsz": "resolution",
    "lr0": "optimizer.lr",
}
"""What other trainers call a setting, and what is the nearest to it here."""
_CALLED = re.compile(r"target '([\w.]+)'.*?(?:full_key: (\S+))?$", re.DOTALL)
_LOCATED = re.compile(r"Error locating target '([^']*)'")
_UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")
_UNSET_KEY = re.compile(r"Interpolation key '(.+)' not found")


_ELSEWHERE = re.compile(r"In '(\S+)': Could not override '([^'@]+)@\S+\.\2'")
_NEARBY = re.compile(r"In '(\S+)': Could not override '[^'@]+/(\w+)@\2'")
_TWICE = re.compile(r"Multiple values for (\w+)\. To override a value use 'override (\1: ([^']+))'")


def sentence(error: BaseException, groups: Iterable[str] = ()) -> str:
    """What is wrong, in one line; `groups` are config groups that may have been meant by an unknown key.

    Of an error in a constructor that Hydra called it is the constructor's message.
    """
    if isinstance(error, InstantiationException) and (misspelt := _misspelt(error)):
        return misspelt
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        if unread := _unread(error):
            return unread
        error = error.__cause__
    if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return f"there is no {group} '{name}'; {instead(name, error.options, 'there are')}"
    if isinstance(error, ConfigCompositionException) and (unfit := _of_defaults(str(error))):
        return unfit
    if isinstance(error, ConfigCompositionException) and (unset := _UNSET_GROUP.match(str(error))):
        return f"the config has no '{unset[1]}' to exchange; add one with {unset[2]}"
    if isinstance(error, OverrideParseException):
        reason = [line for line in str(error).splitlines() if line and not line.startswith("See http")][-1]
        typed = error.override.removeprefix("++")  # `ufo.command_line.settable` adds them
        if os.path.exists(typed):  # `ufo train` takes files, an evaluation the path behind its key
            return f"'{typed}' says nothing without a key; what is scored is written ckpt={typed}"
        key, _, value = typed.partition("=")
        if value and value[0] not in "[{(" and "'" not in value and re.fullmatch(r"[\w.@/+~-]+", key):
            mended = f"\"{key}='{value}'\""
            return f"cannot read '{typed}'; write a text of such characters in quotes of its own: {mended}"
        return f"cannot read '{typed}' ({reason}); overrides are written key=value"
    for known in (error, error.__cause__):
        if isinstance(known, OmegaConfBaseException):
            return _of_omegaconf(known, groups)
    if isinstance(error, RecursionError):
        return "a yaml file is nested too deeply to be a config, or refers to itself"
    if isinstance(error, UnicodeDecodeError):
        return f"a yaml or text file is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
    text = str(error)
    if text.startswith("Caught ") and "Original Traceback" in text:  # by a worker of torch's data loader
        text = text.strip().splitlines()[-1].partition(": ")[2]
    return " ".join(text.split())


def _misspelt(error: InstantiationException) -> str:
    """What is said of a `_target_` that names nothing; "" of anything else."""
    named = _LOCATED.search(str(error))
    try:
        if named:
            find_target(named[1])
    except ValueError as why:
        return str(why)
    return ""


def _unread(error: InstantiationException) -> str:
    """What is said of a key that the code it is for does not take; "" of anything else."""
    called, name = _CALLED.search(str(error)), _UNEXPECTED.search(str(error.__cause__))
    if not called or not name or not isinstance(error.__cause__, TypeError):
        return ""
    try:
        parameters = inspect.signature(find_target(called[1])).parameters.values()
    except (TypeError, ValueError):  # written in C: what it takes is not known
        return ""
    known = [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    key = f"{called[2]}.{name[1]}" if called[2] else name[1]
    return f"nothing reads the config key '{key}'; {instead(name[1], known, 'keys are')}"


def _of_defaults(message: str) -> str:
    """What is said of a file whose first line or list of defaults chooses nothing; "" of anything else."""
    if found := _ELSEWHERE.match(message):
        return (
            f"{found[1]}.yaml chooses a {found[2]} below a key of its own; the first line of the yaml must "
            "be: # @package _global_"
        )
    if found := _NEARBY.match(message):
        return f"{found[1]}.yaml chooses a {found[2]} without a slash; write: override /{found[2]}: ..."
    if found := _TWICE.match(message):
        command = f"{found[1]}={found[3]}"
        return (
            f"a {found[1]} is chosen already; write in a yaml: override /{found[2]}, in a command: {command}"
        )
    return ""


def _of_omegaconf(error: OmegaConfBaseException, groups: Iterable[str]) -> str:
    key, parent = error.full_key, error.parent_node
    if isinstance(error, (ConfigKeyError, ConfigAttributeError)) and isinstance(parent, DictConfig):
        names = {str(name) for name in parent}
        if key == str(error.key):  # at the root, where an option of a group may have been meant
            if deeper := _deeper(key, parent):
                return f"the config has no key '{key}'; did you mean '{deeper}'?"
            names.update(groups)
        hint = instead(str(error.key), names, "keys are")
        if "_target_" in names and not hint.startswith("did you mean"):  # it takes more than is written
            hint += f"; +{key}= adds a new one"
        return f"the config has no key '{key}'; {hint}"
    if isinstance(error, MissingMandatoryValue):  # what is marked with ??? says by its name what it takes
        return f"the command does not say {key}; add {key}={'runs/NAME' if key == 'ckpt' else '...'}"
    message = (error.msg or str(error)).partition("\n")[0]
    if isinstance(error, InterpolationKeyError) and (unset := _UNSET_KEY.match(message)):
        if written := _relative(error, unset[1]):
            return written
        task = re.match(r"tasks\.(\w+)\.", unset[1])
        added = f"+task@tasks.{task[1]}={task[1]}" if task else f"{unset[1]}=..."
        message = f"it takes {unset[1]}, which nothing sets; add {added}, or the mixture= that has it"
    return f"{key}: {message}" if key else message


def _deeper(key: str, config: DictConfig) -> str:
    """The whole key nearest to the root that ends in `key`, or is called so elsewhere; "": there is none."""
    level: dict[str, Any] = {"": OmegaConf.to_container(config, resolve=False)}
    while level:
        inner = {f"{path}.{name}": v for path, of in level.items() for name, v in of.items()}
        # what repeats another key's value is not the place to set it
        found = next((p for p, v in inner.items() if p.endswith(f".{key}") and "${" not in str(v)), "")
        if found:
            return found.removeprefix(".")
        level = {path: value for path, value in inner.items() if isinstance(value, dict)}
    return ELSEWHERE.get(key, "")


def _relative(error: InterpolationKeyError, name: str) -> str:
    """What is said of a reference that begins with dots, with the whole key that it means; "" of another."""
    value, parts = str(error.child_node), re.split(r"\.|(?=\[)", str(error.full_key or ""))
    found = re.search(rf"\$\{{(\.+){re.escape(name)}\}}", value)
    if not found or len(found[1]) > len(parts):
        return ""
    meant = ".".join([*parts[: len(parts) - len(found[1])], name]).replace(".[", "[")
    mend = f"write the value itself, or add +{meant}=..."
    return f"{error.full_key}={value} takes {meant}, which nothing sets; {mend}"
