"""Predictions in a process that was forked after torch had computed."""

from __future__ import annotations

import logging
import os

import torch

log = logging.getLogger(__name__)

LOADED_IN = os.getpid()


def leave_threads_of_parent() -> None:
    """Compute with one thread in a forked process.

    Torch's threads live in the process that started them: a fork that computes with several waits for them
    for ever. Workers of a `DataLoader` compute with one thread for the same reason.
    """
    if os.getpid() != LOADED_IN and torch.get_num_threads() > 1:
        torch.set_num_threads(1)
        log.warning("a forked process computes with one thread; start it with 'spawn' for several")
