"""How fast training is, how long it waits for data, how much memory it takes.

Times are those of the main process; nothing here waits for a device, so that measuring costs
nothing. Over the steps between two logs a GPU's queue evens out.
"""

from __future__ import annotations

import sys
from time import perf_counter
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

GB = 1e9


class Throughput(Callback):
    """Log `speed/images_per_s`, `speed/data_wait` and `speed/memory_gb` every `log_every_n_steps`.

    * `images_per_s`: images of all processes per second since the last log.
    * `data_wait`: share 0..1 of that time between the end of a batch and the start of the next one:
      loading and copying to the device. With a GPU it is an upper bound, as the device may still be
      computing meanwhile.
    * `memory_gb`: the largest amount so far, allocated on the GPU or resident of this process.

    Validation and saving between two batches count as neither time nor waiting.
    """

    def __init__(self) -> None:
        self._reset()
        self._began: float | None = None  # current batch
        self._ended: float | None = None  # last batch; None: the pause since is not data's
        self._step = -1

    def _reset(self) -> None:
        self._images, self._busy, self._waited = 0, 0.0, 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._reset()
        self._ended, self._step = None, trainer.global_step

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._began = perf_counter()
        if self._ended is not None:
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
        self._busy += self._ended - self._began
        self._images += len(batch)
        # with gradient accumulation several batches belong to one step
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        every = trainer.log_every_n_steps
        if every and self._step % every == 0:
            pl_module.log_dict(self.values(trainer), batch_size=len(batch))
            self._reset()

    def values(self, trainer: Trainer) -> dict[str, float]:
        """What is logged, of the batches since the last log."""
        total = max(self._busy + self._waited, 1e-9)
        values = {
            "speed/images_per_s": self._images * trainer.world_size / total,
            "speed/data_wait": self._waited / total,
        }
        if (memory := max_memory(trainer.strategy.root_device)) is not None:
            values["speed/memory_gb"] = memory / GB
        return values

    def _interrupt(self, *_: Any) -> None:
        self._ended = None

    on_validation_start = _interrupt
    on_save_checkpoint = _interrupt


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
