"""train.py, evaluate.py and `ufo demo` as a user runs them, with miniature networks and data.

`run` stays in this process (one import of torch for all tests), `command` starts a real one.
"""

from __future__ import annotations

import csv
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
import pytest
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import Callback
from omegaconf import DictConfig

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
# a few thousand weights, the same windows as the tiny network
NETWORK = [
    "backbone.network.width=32",
    "backbone.network.depth=2",
    "backbone.network.heads=2",
    "backbone.network.global_layers=[1]",
    "backbone.network.new_layers=1",
]
DENSE = ("detection", "instance_segmentation", "semantic_segmentation")
TASKS = (*DENSE, "caption", "grounding")
QUICK = [
    "num_workers=0",
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "trainer.max_steps=2",
    "trainer.val_check_interval=2",
    "trainer.log_every_n_steps=1",
    "+trainer.enable_progress_bar=false",
    "+trainer.enable_model_summary=false",
    "~callbacks.progress",
    "callbacks.pictures.num_images=2",
    "++callbacks.pictures.max_side=64",
    "mask_points=32",
    # an untrained model never stops by itself
    *(f"tasks.{task}.max_length=12" for task in TASKS),
    *(f"tasks.{task}.mask_tokens=4" for task in DENSE[1:]),
]
SCENES = {"train": 24, "val": 7}
SHIPPED = ROOT / "weights" / "ufo_vit_tiny_digits"
# the shipped model as it was trained, on few images
SHIPPED_RUN = [
    "experiment=digits",
    "num_workers=0",
    "trainer.accelerator=cpu",
    "trainer.max_steps=2",
    "trainer.val_check_interval=2",
    "optimizer.lr=1e-5",
    "~callbacks.pictures",
]
needs_weights = pytest.mark.skipif(not SHIPPED.is_dir(), reason=f"the trained model is not in {SHIPPED}")


def digits(folder: Path) -> list[str]:
    """Overrides for a tiny set of digit scenes, generated in `folder` unless it is there."""
    return [f"prepare.digits.out={folder}", *(f"prepare.digits.{k}={v}" for k, v in SCENES.items())]


def resolution(dense: int, single: int) -> list[str]:
    """Overrides for the network's input, in pixels per side, of tasks with queries and with one answer."""
    return [f"resolution.{task}={dense if task in DENSE else single}" for task in TASKS]


def batches(size: int, *sources: str) -> list[str]:
    """Overrides for the batch sizes of some sources."""
    return [f"sources.{s}.{key}={size}" for s in sources for key in ("batch_size", "val_batch_size")]


def compose(*overrides: str, config: str = "train") -> DictConfig:
    """The config as `--cfg job` shows it; its interpolations resolve."""
    runtime = [f"hydra.runtime.cwd={ROOT}", "hydra.runtime.output_dir=/nowhere"]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose(config, [*runtime, *overrides], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    return cfg


def run(script: str, *overrides: str, out: Path) -> None:
    """`python <script> <overrides>` in this process; the run's folder is `out`."""
    before, folder = list(sys.argv), os.getcwd()
    # the tests' own logging stays as it is
    quiet = ["hydra/job_logging=none", "hydra/hydra_logging=none", f"hydra.run.dir={out}"]
    sys.argv = [str(ROOT / script), *quiet, *overrides]
    os.chdir(ROOT)
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        sys.argv = before
        os.chdir(folder)


def command(script: str, *overrides: str, out: Path, env: dict[str, str] | None = None):
    """The same in a process of its own; the completed process with its texts."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return subprocess.run(
        [sys.executable, str(ROOT / script), *overrides, f"hydra.run.dir={out}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **(env or {})},
        capture_output=True,
        text=True,
        timeout=600,
    )


def metrics(folder: Path, prefix: str = "val/") -> dict[str, float]:
    """The last value of each metric in the CSV logs of a run's folder."""
    found: dict[str, float] = {}
    for path in sorted((folder / "csv").rglob("metrics.csv")):
        with open(path, newline="") as file:
            for row in csv.DictReader(file):
                found |= {k: float(v) for k, v in row.items() if k.startswith(prefix) and v}
    return found


def options(group: str) -> Sequence[str]:
    """The names of a config group's options."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


class KillOnce(Callback):
    """SIGKILL in the middle of a step; the next start of the same command lives."""

    def __init__(self, step: int, marker: str) -> None:
        self.step, self.marker = step, Path(marker)

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        if trainer.global_step == self.step and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
