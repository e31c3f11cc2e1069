"""A training ends with a validation, whatever `trainer.val_check_interval` says: a short run has a result."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class FinalValidation(Callback):
    """Validates after the last training batch, unless that is a batch after which the run validates anyway.

    Inside of the training, so that checkpoints, loggers and every strategy see it as any other validation. A
    trainer that is asked to stop validates first (Lightning); nothing else makes it do so after any batch.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        done = 0 <= trainer.max_steps <= trainer.global_step
        last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if done or last:
            trainer.should_stop = True
