"""Counts of unusable samples are curves of the source that they belong to."""

from __future__ import annotations

from types import SimpleNamespace

from ufo.callbacks.problems import DataProblems


def test_counts_are_logged_per_source_every_n_steps_by_one_process():
    logged = []
    logger = SimpleNamespace(log_metrics=lambda values, step: logged.append((step, values)))
    bad = SimpleNamespace(name="coco/detection", problems=lambda split: (2, 1))
    good = SimpleNamespace(name="coco/caption", problems=lambda split: (0, 0))
    trainer = SimpleNamespace(
        log_every_n_steps=5,
        global_step=0,
        is_global_zero=True,
        loggers=[logger],
        datamodule=SimpleNamespace(sources=[bad, good]),
    )
    for trainer.global_step in range(1, 11):
        DataProblems().on_train_batch_end(trainer, None, None, None, 0)
    values = {"data/coco/detection/unusable": 2.0, "data/coco/detection/rejected": 1.0}
    assert logged == [(5, values), (10, values)]
    trainer.is_global_zero = False
    DataProblems().on_train_batch_end(trainer, None, None, None, 0)
    assert len(logged) == 2
