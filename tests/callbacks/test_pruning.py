"""A run that tells its search how it does, found through the search's storage alone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn

from ufo.callbacks.pruning import Pruning
from ufo.sweeps.record import Pruned
from ufo.sweeps.search import open_storage

optuna = pytest.importorskip("optuna")
NAME = "val/toys/detection/mAP"


def trainer(step: int, value: float) -> SimpleNamespace:
    return SimpleNamespace(
        sanity_checking=False,
        is_global_zero=True,
        global_step=step,
        state=SimpleNamespace(fn=TrainerFn.FITTING),
        callback_metrics={NAME: torch.tensor(value)},
        strategy=SimpleNamespace(broadcast=lambda x: x),
    )


@pytest.mark.heavy
@pytest.mark.parametrize("where", ["sqlite:///{}/optuna.db", "{}/journal.log"])
def test_a_run_behind_the_others_is_given_up(where, tmp_path):
    storage = where.format(tmp_path)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=0)
    study = optuna.create_study(storage=open_storage(storage), study_name="s", direction="maximize")
    for values in ((0.5, 0.6), (0.4, 0.1), (0.7, 0.8)):
        trial = study.ask()
        callback = Pruning(NAME, storage, "s", trial.number, pruner)
        callback.setup(trainer(0, 0.0), None, "fit")
        try:
            for step, value in enumerate(values, start=1):
                callback.on_validation_end(trainer(step, value), None)
                callback.on_validation_end(trainer(step, value), None)  # a resumed run validates again
            study.tell(trial, values[-1])
        except Pruned as error:
            assert "at step 1 is behind" in str(error)
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    assert [t.state.name for t in study.trials] == ["COMPLETE", "PRUNED", "COMPLETE"]
    assert study.trials[0].intermediate_values == pytest.approx({1: 0.5, 2: 0.6})


def test_an_unknown_metric_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="choose another objective"):
        Pruning("val/none", "", "s", 0).on_validation_end(trainer(1, 0.5), None)
