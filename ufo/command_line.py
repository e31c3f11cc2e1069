"""The command lines of train.py and evaluate.py: what Hydra says of a wrong override, in one sentence.

Also how a text becomes a value that Hydra reads as exactly this text: its grammar knows quotes, brackets,
commas and few letters beyond ASCII, and folders have all of them in their names.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ufo import extensions, places
from ufo.errors import sentence
from ufo.yaml_files import UNREADABLE, check_folders

FULL, OURS = "HYDRA_FULL_ERROR", "UFO_COMPOSES"
# keys that are arguments of a class or function: it, not the yaml, says which there are
_ARGUMENT = re.compile(
    r"((tasks|sources|prepare|callbacks|logger)\.\w+|optimizer|schedule|trainer|lora"
    r"|backbone\.(network|tokenizer|ramp|module)|sources\.\w+\.(dataset|transform)\.(train|val))\.\w+=.*",
    re.DOTALL,
)
VALUED = frozenset(
    [
        "--config-dir",
        "-cd",
        "--config-path",
        "-cp",
        "--config-name",
        "-cn",
        "--cfg",
        "-c",
        "--package",
        "-p",
        "--experimental-rerun",
    ]
)
"""Hydra's options that take a value."""


@contextmanager
def clear_command_line(*numbered: str) -> Iterator[None]:
    """Around the call of a `hydra.main`: exit code 1 and one sentence where no config can be composed.

    Hydra prints its errors itself, over many lines, unless it is asked for tracebacks; so it is asked for
    them until the job begins. `numbered` names config groups whose options are numbers: `resolution=1120`.
    """
    options, overrides = split_arguments(sys.argv[1:])
    try:
        check_folders(own_folders(options))
        _say_unread([*own_folders(options), *extensions.config_folders()])
    except ValueError as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        sys.exit(1)
    sys.argv[1:] = [*options, *settable(readable(override, numbered) for override in overrides)]
    if os.environ.get(FULL):
        yield
        return
    os.environ[FULL] = os.environ[OURS] = "1"
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        print(f"error: {sentence(error, groups())}", file=sys.stderr)
        sys.exit(1)
    except UNREADABLE as error:
        if not os.environ.get(OURS):
            raise
        print(f"error: {sentence(error)}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        if not os.environ.get(OURS):  # the job has begun: what it says is its own
            raise
        where = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print(
            f"error: the run's folder cannot be written ({where}); choose another paths.runs", file=sys.stderr
        )
        sys.exit(1)
    except SystemExit as error:
        if error.code == 2 and os.environ.get(OURS):  # argparse has said which option there is not
            print(f"error: settings are written key=value, without dashes: {_setting()}", file=sys.stderr)
        raise
    finally:
        job_begins()


def settable(overrides: Iterable[str]) -> list[str]:
    """Overrides that also set what no yaml sets: `tasks.detection.num_beams=3` in place of `+tasks...`.

    A yaml holds only what differs from the code's defaults, so Hydra cannot tell a default from a typing
    error. `ufo.check.check_config` can: it asks the code.
    """
    return [f"++{override}" if _ARGUMENT.fullmatch(override) else override for override in overrides]


def quoted(text: str | Path) -> str:
    """A text as a value in an override, whatever characters it has."""
    # a backslash needs another one only before a quote; an interpolation is escaped as OmegaConf has it
    text = str(text).replace("${", "\\${")
    return "'" + re.sub(r"(\\*)('|$)", lambda end: end[1] * 2 + ("\\'" if end[2] else ""), text) + "'"


def searched(*folders: Path) -> str:
    """The override that adds folders of configs to those of the project."""
    return f"hydra.searchpath=[{','.join(quoted(f'file://{folder.absolute()}') for folder in folders)}]"


def readable(override: str, numbered: Sequence[str] = ()) -> str:
    """An override as Hydra reads what was meant: with quotes around a path or a number that needs them.

    A path is a value that exists as a file or folder, or that has a slash and is not in Hydra's grammar.
    `numbered` names config groups whose options are numbers, which Hydra would take for integers.
    """
    key, equals, value = override.partition("=")
    if equals and key.lstrip("+") in numbered:
        return f"{key}={','.join(quoted(v) if v.isdigit() else v for v in value.split(','))}"
    if not value or value[0] in "'\"[{":
        return override
    exists = os.path.exists(value)
    if not exists and ("/" not in value or "${" in value):
        return override
    if "${" in value:  # there is a file with just these characters in its name
        return f"{key}={quoted(value)}"
    try:
        parsed = OverridesParser.create().parse_override(override)
        # "a,b/c" is two values unless there is such a path; a word or a number is itself
        alone = not parsed.is_sweep_override() and ("/" not in value or str(parsed.value()) == value)
        return override if alone or not exists else f"{key}={quoted(value)}"
    except HydraException:
        return f"{key}={quoted(value)}"


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Hydra's options and the overrides, in whatever order they stand; Hydra itself wants these together."""
    options: list[str] = []
    overrides: list[str] = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        # what has a `=` is not a value of `--info`, which may go without one
        is_value = before in VALUED or (before in ("--info", "-i") and "=" not in argument)
        (options if argument.startswith("-") or is_value else overrides).append(argument)
    return options, overrides


def as_written(overrides: Any) -> list[str]:
    """Hydra's own list of overrides as they were written: what one refers to is in the config, not there."""
    if OmegaConf.is_config(overrides):
        overrides = OmegaConf.to_container(overrides, resolve=False)
    return [str(override) for override in overrides or []]


def own_folders(options: Sequence[str]) -> Iterator[Path]:
    """The folders that `--config-dir` names."""
    for option, value in zip(options, [*options, ""][1:], strict=True):
        name, equals, said = option.partition("=")
        if name in ("--config-dir", "-cd") and (said or value):
            yield Path(said if equals else value)


def _say_unread(folders: Iterable[Path]) -> None:
    """Warn of own configs in place of which Hydra reads those of the project, without a word."""
    for folder in folders:
        for path in sorted(folder.rglob("*.yaml")):
            try:
                places.check_read(path, folder)
            except ValueError as error:
                print(f"warning: {error}", file=sys.stderr)


def job_begins() -> None:
    """From here on Hydra reports in its own way; in processes that inherited the environment, too."""
    if os.environ.pop(OURS, None):
        os.environ.pop(FULL, None)


def chosen_experiment() -> str | None:
    """The experiment that the command chose; None outside of a command, too."""
    choices = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
    chosen = choices.get("experiment")
    return None if chosen in (None, "null") else str(chosen)


def _setting() -> str:
    """What the first word with dashes was probably to say, as Hydra reads it."""
    first = next((word for word in sys.argv[1:] if word.startswith("--")), "")
    name, _, value = first.lstrip("-").partition("=")
    files = (places.conf() / f"{script}.yaml" for script in ("train", "evaluate"))
    keys = {key for file in files for key in yaml.safe_load(file.read_text(encoding="utf-8"))}
    close = difflib.get_close_matches(name.replace("-", "_"), keys - {"defaults"} | {*groups()}, n=1)
    return f"{close[0]}={value or 'VALUE'}" if close else "ckpt=runs/birds"


def groups() -> list[str]:
    """The groups of the project's configs."""
    return [folder.name for folder in places.conf().iterdir() if folder.is_dir()]
