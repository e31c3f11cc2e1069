"""Folders that a test session makes once, whatever the number of its processes (pytest-xdist)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def shared(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder `name` of this session, filled by one call of `make(folder)`; nobody writes there later.

    The first process that asks makes it, and the others wait. If `make` fails, the next one tries again, in
    an empty folder.
    """
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # a worker's own folder is inside of the session's
        base = base.parent
    home = base / "shared"
    home.mkdir(exist_ok=True)
    with FileLock(home / f"{name}.lock"):
        for attempt in range(100):
            folder = home / (f"{name}_{attempt}" if attempt else name)
            done = home / f"{folder.name}.done"
            if done.exists():
                return folder
            if not folder.exists():
                break
        folder.mkdir()
        make(folder)
        done.touch()
    return folder
