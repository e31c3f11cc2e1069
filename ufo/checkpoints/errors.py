"""What goes wrong with checkpoints, and how names are listed in a message."""

from collections.abc import Sequence

_LISTED = 12  # names that a message lists before it only counts


class CheckpointError(Exception):
    """A checkpoint that cannot be used; the message says why and what would help."""


def listing(what: str, names: Sequence[str]) -> str:
    """Such as `3 missing keys (a, b, c)`."""
    shown = ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
    return f"{len(names)} {what} keys" + (f" ({shown})" if names else "")
