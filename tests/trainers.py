"""A trainer that writes and prints nothing, for tests that look at what Lightning does with a module."""

from __future__ import annotations

from typing import Any

import lightning as L

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def quiet_trainer(**settings: Any) -> L.Trainer:
    """A trainer on the CPU; logger, checkpoints, bar and summary are off unless they are given."""
    return L.Trainer(**{**QUIET, **settings})
