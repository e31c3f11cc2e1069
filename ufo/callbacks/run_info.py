"""What a result needs to be repeated: config, code revision, package versions, machine, command.

Written as `run.json` and `config.yaml` in the run's folder and given to every logger (users ask for
it before anything else: a number whose code and settings are unknown can't be reproduced).
"""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from omegaconf import DictConfig, OmegaConf

from ufo.files import write_json, write_text
from ufo.lightning_private import settings

log = logging.getLogger(__name__)

PACKAGES = (
    "ufo-vision",
    "lightning",
    "torch",
    "torchvision",
    "transformers",
    "torchmetrics",
    "hydra-core",
    "pycocotools",
)


class RunInfo(Callback):
    """Record a run when it starts to train or evaluate; the first process alone does.

    A run that is started again in the same folder (resumed, evaluated) keeps the records of earlier
    starts in `run.json` under "earlier", and their configs as `config_<n>.yaml` where they differ.
    Loggers get the config as hyper-parameters, with "run" beside it. A folder that can't be written
    is logged, and the run goes on; Lightning's `fast_dev_run` records nothing.

    Args:
        config: the resolved config, `DictConfig` or plain.
        folder: where to write; by default the trainer's `default_root_dir`.
    """

    def __init__(self, config: DictConfig | Mapping[str, Any], folder: str | Path | None = None):
        self.config = config
        self.folder = None if folder is None else Path(folder)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not trainer.is_global_zero or settings(trainer).fast_dev_run:
            return
        info, config = run_info(trainer, stage), resolved(self.config)
        folder = self.folder or Path(trainer.default_root_dir)
        try:
            write_records(folder, info, config)
        except OSError as error:
            log.warning("What was run could not be written to %s: %s", folder, error)
        for logger in trainer.loggers:
            logger.log_hyperparams({**config, "run": info})


def run_info(trainer: Trainer, stage: str) -> dict[str, Any]:
    """Plain numbers and texts about this process and its code, without environment variables."""
    return {
        "stage": str(getattr(stage, "value", stage)),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": list(sys.argv),
        "folder": os.getcwd(),
        "git": git_revision(),
        "packages": package_versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": device_names(trainer),
        "world_size": trainer.world_size,
        "num_nodes": trainer.num_nodes,
        "precision": str(trainer.precision),
    }


def write_records(folder: Path, info: dict[str, Any], config: dict[str, Any]) -> None:
    """Write `run.json` and `config.yaml`, each whole or not at all.

    Raises:
        OSError: the folder can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    earlier = _earlier(folder / "run.json")
    before = folder / "config.yaml"
    if earlier and before.is_file() and before.read_text(encoding="utf-8") != text:
        earlier[-1]["config"] = f"config_{len(earlier)}.yaml"
        os.replace(before, folder / earlier[-1]["config"])
    record = {**info, "earlier": earlier} if earlier else info
    write_text(before, text)
    write_json(folder / "run.json", record, indent=2)


def _earlier(path: Path) -> list[dict[str, Any]]:
    """Records of earlier starts, the last one last."""
    try:
        known = json.loads(path.read_bytes())
        return [*known.pop("earlier", []), known]
    except (FileNotFoundError, ValueError, AttributeError, TypeError):  # none, or not one of ours
        return []


def git_revision() -> dict[str, Any] | None:
    """Commit, and whether tracked files differ from it: of the package's own code if that is under
    version control, else the commit that UFO_REVISION names, as the Dockerfile's build does. If nothing
    says what code runs: of the current folder, or None where that is in no repository or git is missing.
    """
    code = Path(__file__).parents[1]
    # installed into an environment inside somebody's repository, the code is not part of it
    tracked = _git(code, "ls-files", "--error-unmatch", "__init__.py") is not None
    if found := _revision_of(code) if tracked else None:
        return found
    if built_from := os.environ.get("UFO_REVISION"):
        return {"revision": built_from, "dirty": None}
    return _revision_of(Path.cwd())


def _revision_of(folder: Path) -> dict[str, Any] | None:
    """The commit of the repository around a folder; None if there is none."""
    revision = _git(folder, "rev-parse", "HEAD")
    if revision is None:
        return None
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"revision": revision, "dirty": None if changes is None else bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says in `folder`, None if it fails."""
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def package_versions() -> dict[str, str]:
    """Installed versions of `PACKAGES`."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def device_names(trainer: Trainer) -> list[str]:
    """Names of the devices of this node that the trainer uses."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        return [torch.cuda.get_device_name(i) for i in trainer.device_ids]
    name = platform.processor() or platform.machine()
    return [f"{device.type}: {name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"]


def resolved(config: Any) -> Any:
    """A config as dicts, lists, numbers and texts: interpolations resolved, all else as text."""
    if OmegaConf.is_config(config):
        config = OmegaConf.to_container(config, resolve=True)
    if isinstance(config, Mapping):
        return {str(key): resolved(value) for key, value in config.items()}
    if isinstance(config, Sequence) and not isinstance(config, str):
        return [resolved(value) for value in config]
    return config if isinstance(config, bool | int | float | str | None) else str(config)
