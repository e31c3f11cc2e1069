"""Say who waits: a process that hears nothing of its data loader, or of the other processes, for too long.

A thread looks at the clock now and then; the training itself only notes what it is doing.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
import traceback
from time import monotonic
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

log = logging.getLogger(__name__)

DATA = (
    "waits for its next batch: a worker of the data loader is stalled or the storage is slow; "
    "try num_workers=0 to see which sample it is"
)
STEP = "is in batch {}: it computes, or waits for another process; look for the one that waits for data"
OTHER = "is between batches (validation, saving, logging), or waits for another process there"
STALLED_EXIT = 124  # as `timeout` has it


class StallWatch(Callback):
    """Log what a process is stuck in after `seconds`, then after twice as long, and so on.

    Args:
        seconds: without any progress.
        abort_after: seconds without progress after which the process ends itself with status 124 and the
            stacks of its threads, so that a cluster can start the job again; `None`: never.
    """

    def __init__(self, seconds: float = 300.0, abort_after: float | None = None) -> None:
        if seconds <= 0 or (abort_after is not None and abort_after <= 0):
            raise ValueError("callbacks.stall_watch: seconds and abort_after must be positive")
        self.seconds, self.abort_after = seconds, abort_after
        self._since, self._doing, self._said = monotonic(), OTHER, 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._rank = 0

    def _note(self, doing: str) -> None:
        self._since, self._doing, self._said = monotonic(), doing, 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._rank = trainer.global_rank
        self._main = threading.get_ident()
        self._note(DATA)
        self._stop.clear()
        self._thread = threading.Thread(target=self._watch, name="stall watch", daemon=True)
        self._thread.start()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._note(STEP.format(batch_idx))

    def on_train_batch_end(self, *_: Any) -> None:
        self._note(DATA)

    def _other(self, *_: Any) -> None:
        self._note(OTHER)

    on_validation_start: Any = _other
    on_validation_batch_start: Any = _other
    on_validation_batch_end: Any = _other
    on_save_checkpoint: Any = _other

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._note(DATA)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
            self._thread = None

    def _watch(self) -> None:
        longest = min(self.seconds, self.abort_after or self.seconds)
        while not self._stop.wait(longest / 4):
            waited = monotonic() - self._since
            if waited >= max(self.seconds, 2 * self._said):
                self._said = waited
                log.warning(
                    "process %d %s; %.0f s so far, at %s", self._rank, self._doing, waited, self._where()
                )
            if self.abort_after is not None and waited >= self.abort_after:
                log.error("process %d gives up after %.0f s: it %s", self._rank, waited, self._doing)
                faulthandler.dump_traceback(file=sys.__stderr__ or sys.stderr)
                os._exit(STALLED_EXIT)

    def _where(self) -> str:
        """The main thread's innermost line."""
        frame = sys._current_frames().get(self._main)
        if frame is None:
            return "an unknown place"
        line = traceback.extract_stack(frame)[-1]
        return f"{os.path.basename(line.filename)}:{line.lineno} in {line.name}"
