"""The command lines of train.py and evaluate.py: what Hydra says of a wrong override, in one sentence."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from ufo.errors import sentence

FULL, OURS = "HYDRA_FULL_ERROR", "UFO_COMPOSES"
# keys that are arguments of a class or function: it, not the yaml, says which there are
_ARGUMENT = re.compile(
    r"((tasks|sources|prepare|callbacks|logger)\.\w+|optimizer|schedule|trainer|lora"
    r"|backbone\.(network|tokenizer|ramp|module)|sources\.\w+\.(dataset|transform)\.(train|val))\.\w+=.*",
    re.DOTALL,
)


@contextmanager
def clear_command_line(*numbered: str) -> Iterator[None]:
    """Around the call of a `hydra.main`: exit code 1 and one sentence where no config can be composed.

    Hydra prints its errors itself, over many lines, unless it is asked for tracebacks; so it is asked for
    them until the job begins. `numbered` names config groups whose options are numbers: `resolution=1120`.
    """
    _quote_numbers(numbered)
    sys.argv[1:] = settable(sys.argv[1:])
    if os.environ.get(FULL):
        yield
        return
    os.environ[FULL] = os.environ[OURS] = "1"
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        print(f"error: {sentence(error, _groups())}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        if not os.environ.get(OURS):  # the job has begun: what it says is its own
            raise
        where = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print(
            f"error: the run's folder cannot be written ({where}); choose another paths.runs", file=sys.stderr
        )
        sys.exit(1)
    finally:
        job_begins()


def settable(overrides: Iterable[str]) -> list[str]:
    """Overrides that also set what no yaml sets: `tasks.detection.num_beams=3` in place of `+tasks...`.

    A yaml holds only what differs from the code's defaults, so Hydra cannot tell a default from a typing
    error. `ufo.check.check_config` can: it asks the code.
    """
    return [f"++{override}" if _ARGUMENT.fullmatch(override) else override for override in overrides]


def job_begins() -> None:
    """From here on Hydra reports in its own way; in processes that inherited the environment, too."""
    if os.environ.pop(OURS, None):
        os.environ.pop(FULL, None)


def _groups() -> list[str]:
    """The folders of the script's conf/."""
    conf = Path(sys.argv[0]).absolute().parent / "conf"
    return [folder.name for folder in conf.iterdir() if folder.is_dir()] if conf.is_dir() else []


def _quote_numbers(groups: tuple[str, ...]) -> None:
    """Hydra takes a bare number for an integer and then refuses it as the name of an option."""
    for i, argument in enumerate(sys.argv[1:], start=1):
        key, equals, value = argument.partition("=")
        if equals and key.lstrip("+") in groups:
            quoted = ",".join(f"'{v}'" if v.isdigit() else v for v in value.split(","))
            sys.argv[i] = f"{key}={quoted}"
