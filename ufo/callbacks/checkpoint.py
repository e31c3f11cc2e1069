"""Checkpoints that a kill or a full disk cannot spoil: written beside, synced, then renamed.

`AtomicCheckpointIO` writes the files, `RunCheckpoint` decides when: every n optimizer steps, and when a
signal asks the run to go (`ufo.callbacks.preemption`). A checkpoint that cannot be written costs a line in
the log, not the run.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from ufo.files import second_name, writing
from ufo.lightning_private import OpenCheckpoint, settings

log = logging.getLogger(__name__)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a file whole or not at all; what was there before stays until the new one is on the disk.

    A failure to write is logged and remembered in `failed`, not raised: an exception on the one process that
    writes would leave the others waiting for it, and the next checkpoint may well succeed.
    """

    def __init__(self) -> None:
        self.failed: Path | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write `checkpoint` to the local file `path`."""
        path = Path(path)
        try:
            with writing(path, "wb", alone=True, durable=True) as file:
                torch.save(checkpoint, file)
            self.failed = None
        # torch's zip writer turns a failed write into a RuntimeError
        except (OSError, RuntimeError) as error:
            reason = _reason(error, path.parent)
            log.error("%s could not be written (%s); the checkpoint before it is kept", path, reason)
            self.failed = path


def _reason(error: BaseException, folder: Path) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    try:  # the zip writer does not tell why: ask the disk
        probe = os.statvfs(folder)
        if probe.f_bavail * probe.f_frsize < 1 << 20:
            return "No space left on device"
    except OSError:
        pass
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


class RunCheckpoint(OpenCheckpoint):
    """Lightning's ModelCheckpoint, with a `last.ckpt` that costs nothing and is never the only victim.

    `last.ckpt` is a second name of the newest regular checkpoint (a hard link; written anew where the disk
    has none). An older checkpoint is removed only when the newer one is there.
    """

    def write_last(self, trainer: Trainer, monitor_candidates: dict[str, Any]) -> None:
        """Give the checkpoint of this step a second name, or write `last.ckpt` where that is impossible."""
        if not self.save_last:
            return
        newest = self.newest(trainer)
        last = self.format_checkpoint_name(monitor_candidates, self.CHECKPOINT_NAME_LAST)
        # every process must come to the same decision, since writing is done by all of them together
        linked = bool(newest) and newest != last and _is_one_file(trainer)
        if linked and trainer.is_global_zero:
            linked = second_name(Path(newest), Path(last))
        if not trainer.strategy.broadcast(linked):
            return super().write_last(trainer, monitor_candidates)
        self.last_model_path = last

    def may_remove(self, trainer: Trainer, previous: str, current: str) -> bool:
        """Only when the newer one is there."""
        written = not trainer.is_global_zero or Path(current).exists()
        return written and super().may_remove(trainer, previous, current)


def _is_one_file(trainer: Trainer) -> bool:
    return isinstance(trainer.strategy.checkpoint_io, AtomicCheckpointIO)


def save_now(trainer: Trainer, pl_module: LightningModule) -> Path | None:
    """Write `last.ckpt` of a run between two batches: its path, None if it is not written (or not wanted).

    Every process of a run must call it.
    """
    callback = trainer.checkpoint_callback
    if (
        not isinstance(callback, ModelCheckpoint)
        or callback.dirpath is None
        or settings(trainer).fast_dev_run
    ):
        return None
    path = Path(callback.dirpath) / f"{callback.CHECKPOINT_NAME_LAST}{callback.FILE_EXTENSION}"
    trainer.save_checkpoint(path)
    failed = getattr(trainer.strategy.checkpoint_io, "failed", None)  # known to the process that writes
    return path if failed is None else None
