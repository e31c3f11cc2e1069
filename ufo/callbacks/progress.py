"""Lightning's progress bar, with its total in a resumed run too."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar


class Progress(TQDMProgressBar):
    """A run that is resumed in the middle of its epoch never starts one, and so never sets the total."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self.train_progress_bar.reset(self.total_train_batches)
        self.train_progress_bar.initial = trainer.fit_loop.epoch_loop.batch_idx + 1
