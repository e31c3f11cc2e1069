"""A signal that asks a run to go: save after the current batch, then leave, or go back to Slurm's queue.

Lightning saves inside the signal handler, in the middle of whatever runs, and its processes may disagree
about the step. Here a handler only notes the signal; all processes agree on the batch after which they save
and leave, so that the resumed run is bit for bit the undisturbed one (docs/cluster.md).
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import signal
import subprocess
import threading
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer

from ufo.callbacks.checkpoint import save_now
from ufo.lightning_private import handlers_before, log_this_batch

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class Preempted(SystemExit):
    """The run was asked to leave and has saved; the exit status is 128 + signal, as a shell has it."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)


class Preemption(Callback):
    """Save and leave after the batch in which a signal came.

    * SIGTERM (`kill`, `scancel`, Slurm's preemption): save, leave.
    * SIGINT (Ctrl-C): save, leave; a second one ends the run at once.
    * SIGUSR1 (`sbatch --signal=USR1@90`): save, `scontrol requeue` if this is a Slurm job, leave.
    * SIGUSR2, if somebody handles it (submitit): save, then let that handler resubmit the job.

    A signal during a validation ends it; the resumed run repeats it from its beginning. One process that got
    the signal is enough; the others learn of it one batch later.

    Args:
        requeue: whether SIGUSR1 puts a Slurm job back into the queue.
    """

    def __init__(self, requeue: bool = True) -> None:
        self.requeue = requeue
        self._received = 0
        self._handlers: dict[int, Any] = {}
        self._agreement = Agreement()

    # Lightning installs its own handlers before this hook and restores the original ones at the end
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._agreement = Agreement(trainer.world_size)
        if threading.current_thread() is not threading.main_thread():
            return
        original = handlers_before(trainer)
        # what an earlier `fit` of this process left is not somebody else's
        self._handlers = {s: original.get(s) for s in SIGNALS}
        for signum, handler in self._handlers.items():
            ignored = signum == signal.SIGINT and handler is signal.SIG_IGN  # a shell's background job
            if not ignored and (signum != signal.SIGUSR2 or callable(handler)):
                signal.signal(signum, self._note)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self._received == signal.SIGINT == signum:
            raise KeyboardInterrupt
        if not self._received:
            again = "; once more ends at once" if signum == signal.SIGINT else ""
            log.warning("%s: saving after this batch%s", signal.Signals(signum).name, again)
        self._received = signum

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if signum := self._agreement(self._received):
            # the last batch's values would else be logged after this hook, and so never
            log_this_batch(trainer)
            self._leave(trainer, pl_module, signum)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        if signum := self._agreement(self._received):
            self._leave(trainer, pl_module, signum)

    def _leave(self, trainer: Trainer, pl_module: LightningModule, signum: int) -> None:
        path = save_now(trainer, pl_module)
        name = signal.Signals(signum).name
        step = trainer.global_step
        if trainer.is_global_zero and path is not None:
            log.warning("%s: saved step %d to %s; the same command goes on", name, step, path)
        elif trainer.is_global_zero:
            log.error("%s: step %d is not saved; the last checkpoint is an earlier one", name, step)
        handler = self._handlers.get(signum)
        if signum == signal.SIGINT:
            leave_quietly()
        if signum == signal.SIGUSR1 and self.requeue and trainer.is_global_zero:
            requeue()
        elif signum == signal.SIGUSR2 and callable(handler):
            handler(signum, None)
        raise Preempted(signum)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._received = 0


class Agreement:
    """The largest number that any process gave one call before: no process waits for another's current batch.

    Numbers travel between CPUs (gloo) in the background; every process must call equally often.
    """

    def __init__(self, world_size: int = 1) -> None:
        distributed = world_size > 1 and dist.is_available() and dist.is_initialized()
        self._group: Any = dist.new_group(backend="gloo") if distributed else None
        self._pending: tuple[torch.Tensor, Any] | None = None

    def __call__(self, number: int) -> int:
        if self._group is None:
            return number
        before, value = self._pending, torch.tensor(number)
        self._pending = value, dist.all_reduce(value, dist.ReduceOp.MAX, self._group, async_op=True)
        if before is None:
            return 0
        before[1].wait()
        return int(before[0])


def leave_quietly() -> None:
    """Let a further Ctrl-C print no traceback of libraries while a saved run leaves.

    Until Lightning gives back the handler that it found, nothing happens: workers end, loggers write. While
    the interpreter ends, where libraries may still wait, it ends the process at once. In between, and in a
    process that lives on, it interrupts as ever.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_DFL)  # of those, the last is called first


def requeue() -> None:
    """Put this Slurm job back into the queue; does nothing outside of Slurm."""
    job = os.environ.get("SLURM_JOB_ID", "")
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    if not re.fullmatch(r"[0-9]+(_[0-9]+)?", job):
        return
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60)
        problem = done.stderr.strip() if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    if problem:
        log.error("the job %s could not be requeued: %s; submit it again, it will go on", job, problem)
    else:
        log.warning("Slurm has the job %s in its queue again", job)
