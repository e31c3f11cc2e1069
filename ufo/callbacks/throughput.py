"""How fast training is, how long it waits for data, how much of the device it uses, how much memory it takes.

Times are those of the main process; nothing here waits for a device, so that measuring costs
nothing. Over the steps between two logs a GPU's queue evens out.
"""

from __future__ import annotations

import logging
import sys
from time import perf_counter
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from ufo.callbacks.flops import StepFlops, peak_flops
from ufo.lightning_private import settings

log = logging.getLogger(__name__)

GB = 1e9


class Throughput(Callback):
    """Log `speed/...` every `log_every_n_steps`.

    * `images_per_s`, `tokens_per_s`: of all processes, per second since the last log. Tokens are image
      patches and the answers' tokens (what a training step returns as `tokens`), without the prompts.
    * `data_wait`: share 0..1 of that time between the end of a batch and the start of the next one:
      loading and copying to the device. With a GPU it is an upper bound, as the device may still be
      computing meanwhile.
    * `wait_s`: the same in seconds per batch.
    * `memory_gb`: the largest amount so far, allocated on the GPU or resident of this process.
    * `tflops`: 10^12 floating-point operations per second and device; `mfu`: their share of what the device
      can do in half precision, left out where that is not known, as on a CPU (see `ufo.callbacks.flops`).

    Validation and saving between two batches count as neither time nor waiting, and neither does the first
    step of each source, in which operations are counted.

    Args:
        flops: whether to count operations: not for compiled or sharded models, which could not be counted.
        peak_tflops: of one device, where the table does not know it or the precision is another.
    """

    def __init__(self, flops: bool = True, peak_tflops: float | None = None) -> None:
        self.flops, self.peak_tflops = flops, peak_tflops
        self._counts: StepFlops | None = None
        self._peak: float | None = None
        self._counting = False
        self._reset()
        self._began = 0.0  # current batch
        self._ended: float | None = None  # last batch; None: the pause since is not data's
        self._step = -1

    def _reset(self) -> None:
        self._images, self._busy, self._waited = 0, 0.0, 0.0
        self._tokens, self._operations, self._batches = 0, 0, 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._reset()
        self._ended, self._step = None, trainer.global_step
        countable = isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy)
        compiled = getattr(pl_module, "is_compiled", False)
        self._counts = StepFlops() if self.flops and countable and not compiled else None
        self._peak = self.peak_tflops * 1e12 if self.peak_tflops else peak_flops(trainer.strategy.root_device)
        if self._counts is not None and self._peak is None and trainer.is_global_zero:
            log.info(
                "speed/mfu is left out: the peak of this device is not known (a CPU, or not in the table of "
                "ufo/callbacks/flops.py); callbacks.throughput.peak_tflops gives it"
            )

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._counting = self._counts is not None and self._counts.start(_kind(batch))
        self._began = perf_counter()
        if self._ended is not None and not self._counting:
            self._waited += self._began - self._ended

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self._ended = perf_counter()
        if self._counts is not None:
            self._counts.stop(finished=True)
        if not self._counting:
            self._busy += self._ended - self._began
            self._images += len(batch)
            self._batches += 1
            self._tokens += outputs.get("tokens", 0) if isinstance(outputs, dict) else 0
            self._operations += self._counts.known[_kind(batch)] if self._counts else 0
        # with gradient accumulation several batches belong to one step
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        every = settings(trainer).log_every_n_steps
        if every and self._step % every == 0 and self._batches:
            pl_module.log_dict(self.values(trainer), batch_size=len(batch))
            self._reset()

    def values(self, trainer: Trainer) -> dict[str, float]:
        """What is logged, of the batches since the last log."""
        total = max(self._busy + self._waited, 1e-9)
        values = {
            "speed/images_per_s": self._images * trainer.world_size / total,
            "speed/data_wait": self._waited / total,
            "speed/wait_s": self._waited / max(self._batches, 1),
        }
        if self._tokens:
            values["speed/tokens_per_s"] = self._tokens * trainer.world_size / total
        if self._operations:
            values["speed/tflops"] = self._operations / total / 1e12
            if self._peak:
                values["speed/mfu"] = self._operations / total / self._peak
        if (memory := max_memory(trainer.strategy.root_device)) is not None:
            values["speed/memory_gb"] = memory / GB
        return values

    def _interrupt(self, *_: Any) -> None:
        self._ended = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._counts is not None:
            self._counts.stop()

    on_validation_start: Any = _interrupt
    on_save_checkpoint: Any = _interrupt


def _kind(batch: Any) -> tuple:
    """What decides how many operations a step takes."""
    images = getattr(batch, "images", None)
    return (getattr(batch, "source", ""), None if images is None else tuple(images.shape))


def max_memory(device: torch.device) -> int | None:
    """Bytes at the fullest moment so far: of the GPU's allocator, else of this process.

    None where the system does not tell.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
