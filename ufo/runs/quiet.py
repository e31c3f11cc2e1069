"""What Lightning says in every run and nobody needs: advertising, deprecations of its own, its own defaults.

Only these lines, by their words: every other warning is shown.
"""

from __future__ import annotations

import logging
import re
import warnings

LINES = re.compile(r"\U0001f4a1 Tip:|`weights_only` was not set")
LOGGERS = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric.utilities.rank_zero",
    "lightning.pytorch.trainer.connectors.checkpoint_connector",
)
WARNINGS = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    r"Checkpoint directory .* exists and is not empty",  # as that of every run that goes on
    r"You are using `torch\.load` with `weights_only=False`",
)


def quieten() -> None:
    """Drop the lines of Lightning; calling it again changes nothing."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if _is_wanted not in logger.filters:
            logger.addFilter(_is_wanted)
    for message in WARNINGS:
        warnings.filterwarnings("ignore", message=message)


def _is_wanted(record: logging.LogRecord) -> bool:
    return not LINES.match(str(record.msg))
