"""The private parts of Lightning that this project needs: each one here, with its reason, and nowhere else.

tests/test_lightning_private.py notices when a new version of Lightning changes one of them.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loops.progress import _ProcessedTracker, _Progress
from lightning.pytorch.strategies import DeepSpeedStrategy, ModelParallelStrategy
from torch.utils.data import DataLoader


class OpenCheckpoint(ModelCheckpoint):
    """ModelCheckpoint with public names for two decisions that a subclass makes.

    Lightning writes `last.ckpt` a second time and removes an older file before the newer one is known to be
    there; it has no public hook for either.
    """

    def write_last(self, trainer: Trainer, monitor_candidates: dict[str, Any]) -> None:
        """Write `last.ckpt`."""
        super()._save_last_checkpoint(trainer, monitor_candidates)

    def may_remove(self, trainer: Trainer, previous: str, current: str) -> bool:
        """Whether `previous` goes after `current` was saved."""
        return super()._should_remove_checkpoint(trainer, previous, current)

    def newest(self, trainer: Trainer) -> str:
        """The regular checkpoint that was written in this very step; "" if there is none."""
        return self._last_checkpoint_saved if self._last_global_step_saved == trainer.global_step else ""

    def _save_last_checkpoint(self, trainer: Trainer, monitor_candidates: dict[str, Any]) -> None:
        self.write_last(trainer, monitor_candidates)

    def _should_remove_checkpoint(self, trainer: Trainer, previous: str, current: str) -> bool:
        return self.may_remove(trainer, previous, current)


class SizedModelParallel(ModelParallelStrategy):
    """ModelParallelStrategy over all processes.

    Its argument is a number or "auto" (one part per node), and the number of processes is known only after
    the trainer has asked the cluster for it.
    """

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()


class ConfiguredDeepSpeed(DeepSpeedStrategy):
    """DeepSpeedStrategy that asks `complete` for what its config lacks, before Lightning fills in its values.

    The precision is known only when the trainer exists, which is after the constructor, and Lightning's own
    value for bfloat16 keeps the weights in bfloat16.
    """

    def complete(self) -> None:
        """Add to `self.config`."""

    def _format_config(self) -> None:
        self.complete()
        super()._format_config()


class HasWorkers:
    """A training loader whose workers Lightning can stop.

    Lightning looks for the handle of the workers in the attribute `_iterator` of a DataLoader. A loader of
    our own that holds a DataLoader as `loader` passes it on.
    """

    loader: DataLoader[Any]

    @property
    def _iterator(self) -> Any:
        return self.loader._iterator

    @_iterator.setter
    def _iterator(self, iterator: None) -> None:
        self.loader._iterator = iterator


class Settings(Protocol):
    """Attributes of a trainer that are public, but set in a way that a type checker cannot see."""

    fast_dev_run: bool | int
    log_every_n_steps: int
    overfit_batches: int | float
    limit_train_batches: int | float
    callbacks: list[Callback]
    datamodule: LightningDataModule | None


def settings(trainer: Trainer) -> Settings:
    """The trainer, with the attributes that Lightning gives it outside of its class."""
    return cast(Settings, trainer)


def handlers_before(trainer: Trainer) -> dict[Any, Any]:
    """Signal -> the handler that was there before `fit`.

    Lightning replaces handlers before the first hook of a callback, and what was there before is needed to
    pass a signal on (submitit resubmits a job in its handler).
    """
    return trainer._signal_connector._original_handlers


def log_this_batch(trainer: Trainer) -> None:
    """Hand the values of the batch that has just ended to the loggers.

    Lightning does this after `on_train_batch_end`; a callback that leaves the run there would lose them.
    """
    trainer._logger_connector.on_batch_end()
    trainer._logger_connector.update_train_step_metrics()


def counts(progress: _Progress) -> tuple[_ProcessedTracker, _ProcessedTracker]:
    """The counters of a loop, of the whole run and of this epoch.

    They are `ready`, `started`, `processed` and `completed`. Lightning declares them with a narrower type
    than they have.
    """
    return cast(_ProcessedTracker, progress.total), cast(_ProcessedTracker, progress.current)


def forget_steps(trainer: Trainer, all_of_them: bool) -> None:
    """Take one optimizer step, or all, from the number by which Lightning labels what is logged in a step.

    A resumed run repeats the batch in which it was saved, and would else log it one step late.
    """
    loop = trainer.fit_loop.epoch_loop
    loop._batches_that_stepped = 0 if all_of_them else loop._batches_that_stepped - 1
