"""The ends of `train.py`: a run trains, is finished and leaves its model, or has been finished before."""

from __future__ import annotations

import shutil
from pathlib import Path

import lightning as L
from omegaconf import DictConfig

from ufo import build
from ufo.checkpoints.load import load, save
from ufo.data.module import UFODataModule
from ufo.files import scratch_for
from ufo.lightning_private import settings
from ufo.modules.base import UFOModule
from ufo.runs import identity, owner, results
from ufo.runs.finite import NonFiniteError
from ufo.runs.resume import Start

LAST = Path("checkpoints", "last.ckpt")


def fit(
    trainer: L.Trainer, module: UFOModule, data: UFODataModule, start: Start | None, folder: Path
) -> None:
    """Train from `start` to the end, and write the checkpoint of the last step."""
    if owner.is_first_process() and not settings(trainer).fast_dev_run:
        assert module.identity is not None, "a module learns which run it belongs to before it trains"
        identity.write(module.identity, folder)
    trainer.fit(module, data, ckpt_path=start.path if start else None, weights_only=True)
    # `every_n_train_steps` need not divide `max_steps`: the run's last checkpoint is that of its last step
    trainer.save_checkpoint(folder / LAST)
    build.check_last_step(trainer)


def _base(module: UFOModule) -> str | None:
    """Where the base of a LoRA is now; a checkpoint knows where it was."""
    return (module.model.backbone.base or {}).get("name")


def finish(cfg: DictConfig, trainer: L.Trainer, module: UFOModule, folder: Path) -> float | None:
    """Print and write the table of the last validation and the model; the objective of a sweep."""
    measured = results.measured(trainer)
    if trainer.is_global_zero:
        build.check_trained(trainer)
        if measured:
            print(results.text(measured, results.published(cfg)))
            results.write(folder, trainer.global_step, measured, results.published(cfg))
        if missing := results.unmeasured(cfg, measured):
            print(missing)
        # not from memory: no process holds all weights where a strategy shards them
        print(f"model: {save(load(folder / LAST, base=_base(module)), folder / 'model')}")
        if (folder / "pictures").is_dir():
            print(f"pictures (ground truth | prediction): {folder / 'pictures'}")
    return build.objective(cfg, measured)


def nothing_left(
    cfg: DictConfig, folder: Path, start: Start, module: UFOModule, data: UFODataModule
) -> float | None:
    """Say that the run is finished; its model stays as it is. What a kill at its end took is made up for.

    Raises NonFiniteError where its last step was left out, as the run itself did.
    """
    if start.left_out:
        raise NonFiniteError(start.left_out)
    first = owner.is_first_process()
    if first:
        print(
            f"nothing left to train: {start.path} has {start.steps} steps, and trainer.max_steps is "
            f"{cfg.trainer.max_steps}. A larger one trains on; `evaluate.py ckpt={folder}` scores it"
        )
    found = results.read(folder)
    if data.evaluated and (found is None or found["step"] < start.steps):
        trainer = build.build_trainer(
            cfg, evaluates=True, callbacks=build.metric_callbacks(cfg), logger=False
        )
        trainer.validate(module, data, ckpt_path=start.path, weights_only=True, verbose=False)
        found = {"measured": results.measured(trainer)}
        if first:
            results.write(folder, start.steps, found["measured"], results.published(cfg))
    measured = found["measured"] if found else {}
    if first:
        if measured:
            print(results.text(measured, results.published(cfg)))
        if not (folder / LAST).is_file():
            _take_over(start.path, folder, module)
        if not (folder / "model").is_dir():
            print(f"model: {save(load(start.path, base=_base(module)), folder / 'model')}")
    return build.objective(cfg, measured)


def _take_over(checkpoint: Path, folder: Path, module: UFOModule) -> None:
    """Copy the last checkpoint of a finished run, so that the new folder can be trained on like any other."""
    with scratch_for(folder / LAST, alone=True) as scratch:
        shutil.copyfile(checkpoint, scratch)
    assert module.identity is not None, "a module learns which run it belongs to before it trains"
    identity.write(module.identity, folder)
