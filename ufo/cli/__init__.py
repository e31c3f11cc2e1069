"""What `pip install` puts on PATH: `ufo COMMAND`, one module per command (see main.py)."""


class CommandError(Exception):
    """What a command cannot do, in one sentence that says what to do instead."""
