"""Lightning's hooks of validation as three methods."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ufo.types import Batch


class EvaluationCallback(Callback):
    """Sees the predictions of every validation batch; subclasses fill the three methods."""

    def start(self) -> None:
        """Forget the evaluation before this one."""

    def see(self, trainer: Trainer, outputs: Any, batch: Batch) -> None:
        """The predictions `outputs` of one batch; sanity checks are left out."""

    def finish(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All batches have been seen."""

    # Lightning's hooks

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.start()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not trainer.sanity_checking:
            self.see(trainer, outputs, batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self.finish(trainer, pl_module)
