"""Tells a search how a run does at every validation, and ends the run if the search gives it up."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from ufo.sweeps.record import Pruned

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)


class Pruning(Callback):
    """Reports `metric` under the trainer's step; raises `Pruned`, on all processes, when the pruner says so.

    The study is found through its storage, so that another process or machine may lead the search.

    Args:
        metric: name of a validation metric.
        storage, study, trial: of the search this run belongs to.
        pruner: the study's pruner, which its storage does not keep.
    """

    def __init__(
        self,
        metric: str,
        storage: str,
        study: str,
        trial: int,
        pruner: optuna.pruners.BasePruner | None = None,
    ) -> None:
        self.metric, self.storage, self.study, self.number = metric, storage, study, int(trial)
        self.pruner = pruner
        self._trial: optuna.Trial | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" or not trainer.is_global_zero:
            return
        import optuna

        from ufo.sweeps.search import open_storage

        study = optuna.load_study(
            study_name=self.study, storage=open_storage(self.storage), pruner=self.pruner
        )
        (frozen,) = [t for t in study.get_trials(deepcopy=False) if t.number == self.number]
        self._trial = optuna.Trial(study, frozen._trial_id)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        step, give_up = trainer.global_step, False
        value = trainer.callback_metrics.get(self.metric)
        if value is None:
            raise ValueError(f"no validation metric is called {self.metric}; choose another objective")
        if self._trial is not None:
            if step not in self._trial.storage.get_trial(self._trial._trial_id).intermediate_values:
                self._trial.report(float(value), step)
            give_up = self._trial.should_prune()
        if trainer.strategy.broadcast(give_up):
            raise Pruned(f"{self.metric} = {float(value):.4g} at step {step} is behind other runs")
