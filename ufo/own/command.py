"""From `train.py mine/source/birds.yaml` to a whole command: what Hydra gets, and what is said about it.

The arguments are rewritten before Hydra reads them. A yaml file becomes `--config-dir` and `+source=`; where
neither a mixture nor an experiment is named, the rest is chosen to fit the data and the machine
(ufo/own/choose.py), but for what the command says itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ufo.command_line import split_arguments
from ufo.own import offered
from ufo.own.place import find
from ufo.runs.naming import own_sources

SUFFIXES = (".yaml", ".yml")
TOLD = ("mixture", "experiment", "sweep")
"""Groups whose choice says what to train: nothing is chosen then."""


@contextmanager
def own_files() -> Iterator[None]:
    """Around the call of a `hydra.main`: yaml files among the arguments are sources of the user's own."""
    before = list(sys.argv)
    try:
        from ufo.check import clear_errors

        with clear_errors():
            sys.argv[1:] = rewritten(sys.argv[1:])
        yield
        offered.say_offered()  # each run of a sweep may have had a process of its own
    finally:
        sys.argv[:] = before
        offered.forget()


def rewritten(arguments: Sequence[str]) -> list[str]:
    """The arguments as Hydra takes them. Raises ValueError for a file that is no source."""
    options, words = split_arguments(arguments)
    files = [word for word in words if word.endswith(SUFFIXES) and "=" not in word]
    overrides = [word for word in words if word not in files]
    _check_overrides(overrides)
    told = any(_key(override) in TOLD for override in overrides)
    if not files and (told or not own_sources(overrides)):
        return list(arguments)
    place = find(files, options)
    if told:
        return [*place.options, *place.overrides, *overrides]
    from ufo.own.choosing import chosen  # imports torch

    base = [*place.options, "experiment=own", *place.overrides]
    return [*base, *chosen(place, overrides, "--cfg" in options or "-c" in options), *overrides]


def _check_overrides(words: Sequence[str]) -> None:
    """Raises ValueError for a file or folder that is no yaml: Hydra would ask for its `=`."""
    for word in words:
        if "=" not in word and os.path.exists(word):
            what = "a folder" if os.path.isdir(word) else "no yaml"
            raise ValueError(
                f"{word} is {what}; give the yaml of a source, as mine/source/birds.yaml (`ufo data import` "
                "makes one), or overrides, which are written key=value"
            )


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~").partition("@")[0]
