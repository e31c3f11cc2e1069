"""How many samples of each source could not be used, as a curve beside the losses."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ufo.callbacks.sources import sources_of
from ufo.lightning_private import settings


class DataProblems(Callback):
    """Log `data/{source}/unusable` and `data/{source}/rejected`: different training samples so far.

    Counts are those of the process that logs; which samples they are is in the log, by name.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        every = settings(trainer).log_every_n_steps
        if not every or (trainer.global_step % every) or not trainer.is_global_zero:
            return
        values = {}
        for source in sources_of(trainer):
            for kind, count in zip(("unusable", "rejected"), source.problems("train"), strict=True):
                if count:
                    values[f"data/{source.name}/{kind}"] = float(count)
        for logger in trainer.loggers if values else ():
            logger.log_metrics(values, step=trainer.global_step)
