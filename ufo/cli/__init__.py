"""What `pip install` puts on PATH: `ufo COMMAND`, one module per command (see main.py)."""

from argparse import ArgumentTypeError


class CommandError(Exception):
    """What a command cannot do, in one sentence that says what to do instead."""


def positive(value: str) -> int:
    """A whole number from 1 on, as the `type` of an option."""
    if not value.isdecimal() or not int(value):
        raise ArgumentTypeError(f"'{value[:20]}' is not a whole number from 1 on")
    return int(value)
