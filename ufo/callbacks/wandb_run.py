"""The run in Weights & Biases: one id per folder, which a resumed run goes on under, one group per sweep.

Needs no account: offline, what is logged waits in the run's folder for `wandb sync`.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from ufo.command_line import as_written

MAX_NAME = 120  # W&B refuses names above 128 characters


def wandb_logger(folder: str, project: str, name: str, mode: str, **settings: Any) -> WandbLogger:
    """Lightning's logger for the run in `folder`.

    Args:
        folder: of the run.
        project: of W&B.
        name: of the run; in a sweep, of its group: the run is then called by its number and overrides.
        mode: online, offline or disabled.
        settings: further ones of `wandb.init`, such as entity, tags, notes.
    """
    unit = sweep_unit(name)
    given = {key: value for key, value in settings.items() if value is not None}
    return WandbLogger(
        project=project,
        save_dir=folder,
        offline=mode == "offline",
        id=given.pop("id", None) or run_id(Path(folder)),
        resume="allow",
        **{"mode": mode, **unit, **given},
    )


def sweep_unit(name: str) -> dict[str, str]:
    """Name, group and job type (`train`, `evaluate`); the group is the sweep, or a single run's own name."""
    if not HydraConfig.initialized():
        return {"name": name, "group": name, "job_type": "train"}
    hydra = HydraConfig.get()
    unit = {"group": name, "job_type": hydra.job.name.split("_ddp_process")[0]}
    if hydra.mode != RunMode.MULTIRUN:
        return {"name": name, **unit}
    swept = ",".join(o.split("=")[0].split(".")[-1] + "=" + o.partition("=")[2] for o in _last(hydra))
    called = f"{hydra.job.num} {swept}"[:MAX_NAME].strip()
    return {"name": called, **unit, "group": Path(hydra.sweep.dir).name}


def _last(hydra: Any) -> list[str]:
    """The overrides of this run that its sweep's own command does not fix."""
    try:
        from omegaconf import OmegaConf

        command = as_written(OmegaConf.load(Path(hydra.sweep.dir) / "multirun.yaml").hydra.overrides.task)
    except (OSError, AttributeError):
        command = []
    return [o for o in as_written(hydra.overrides.task) if o not in command]


def run_id(folder: Path) -> str | None:
    """The id of the folder's run, made at its first start; None under an agent of W&B, which has one."""
    if os.environ.get("WANDB_RUN_ID"):
        return None
    path = folder / "wandb" / "run_id"
    if path.is_file():
        return path.read_text(encoding="utf-8").strip()
    return _new_id(path)


@rank_zero_only
def _new_id(path: Path) -> str:
    made = secrets.token_hex(4)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(made + "\n", encoding="utf-8")
    return made
