"""Which checkpoint of a run to go on from: the newest one that is whole.

A checkpoint that a full disk, a kill or a copy cut short is skipped with one line in the log, so that the
same command always continues a run. Nothing is executed from the files and their weights are not read.
"""

from __future__ import annotations

import logging
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

log = logging.getLogger(__name__)


def last_good(folder: Path) -> Path | None:
    """The checkpoint in `folder` that was written last and is whole; None if there is none."""
    # the latest, not the one with the most steps: a run may have been started afresh in this folder
    for path in sorted(folder.glob("*.ckpt"), key=_changed, reverse=True):
        if optimizer_steps(path) is not None:
            return path
    return None


def optimizer_steps(path: Path) -> int | None:
    """Optimizer steps in the checkpoint at `path`; None, and a line in the log, if it is not whole."""
    try:
        return int(_metadata(path)["global_step"])
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, EOFError) as error:
        reason = error
    except (zipfile.BadZipFile, pickle.UnpicklingError) as error:
        reason = error
    first = (str(reason).splitlines() or [type(reason).__name__])[0][:100]
    log.warning("%s is skipped, it is not a whole checkpoint: %s", path, first)
    return None


def _metadata(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path):  # the directory is at the end of the file: a cut file has none
        pass
    return torch.load(path, map_location="cpu", mmap=True, weights_only=True)


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # a link to a file that is gone
        return 0.0
