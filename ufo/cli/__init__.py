"""What `pip install` puts on PATH: `ufo COMMAND`, one module per command (see main.py)."""

import sys
from argparse import ArgumentTypeError
from collections.abc import Sequence


class CommandError(Exception):
    """What a command cannot do, in one sentence that says what to do instead."""


def positive(value: str) -> int:
    """A whole number from 1 on, as the `type` of an option."""
    if not value.isdecimal() or not int(value):
        raise ArgumentTypeError(f"'{value[:20]}' is not a whole number from 1 on")
    return int(value)


def share(value: str) -> float:
    """A number from 0 to 1, as the `type` of an option."""
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise ArgumentTypeError(f"'{value[:20]}' is not a number from 0 to 1")
    return number


def hand_over(script: str, arguments: Sequence[str]) -> None:
    """Make this process look as if it had been started as `python SCRIPT ARGUMENTS`.

    Hydra reads the arguments there, and Lightning starts the further processes of a run on several devices
    with the same command.
    """
    sys.argv = [script, *arguments]
    # else Lightning would start them as `python -m MODULE`, without the command's name
    sys.modules["__main__"].__spec__ = None
