"""What goes wrong with checkpoints."""


class CheckpointError(Exception):
    """A checkpoint that cannot be used; the message says why and what would help."""
