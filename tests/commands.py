"""train.py, evaluate.py and `ufo demo` as a user runs them, with miniature networks and data.

`run` stays in this process (one import of torch for all tests), `command` starts a real one.
"""

from __future__ import annotations

import contextlib
import csv
import importlib
import logging
import multiprocessing
import os
import random
import runpy
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import hydra
import pytest
import torch
import torch.distributed as dist
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import Callback
from omegaconf import DictConfig

from ufo.command_line import settable

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
# of the digits' metrics, the one that a reader looks at first
HEADLINES = {
    "detection": "mAP50",
    "instance_segmentation": "mAP50",
    "semantic_segmentation": "mIoU",
    "caption": "BLEU-4",
    "grounding": "Acc@0.5",
}
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
    "++callbacks.worst.num_images=2",
    "++callbacks.worst.max_side=64",
    "mask_points=32",
    # an untrained model never stops by itself; grounding has room for the boxes of `digits_generalised`
    *(f"tasks.{task}.max_length={24 if task == 'grounding' else 12}" for task in TASKS),
    *(f"tasks.{task}.mask_tokens=4" for task in DENSE[1:]),
]
# where two runs may differ by round-off alone: Adam would turn it into steps of full size
SGD = ["optimizer._target_=torch.optim.SGD", "optimizer.lr=0.5"]
SCENES = {"train": 24, "val": 7}
# by train.py and evaluate.py with any config
IMPORTED = (
    "lightning.pytorch.loggers",
    "ufo.build",
    "ufo.callbacks.run_info",
    "ufo.metrics.box_map",
    "ufo.check",
    "ufo.checkpoints.load",
    "ufo.data.datasets",
    "ufo.modules.ufo_vit",
    "ufo.sweeps.record",
)
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


def batches(size: int, *sources: str, evaluated: int | None = None) -> list[str]:
    """Overrides for the batch sizes of some sources; `evaluated`: of validation, faster in few batches."""
    sizes = {"batch_size": size, "val_batch_size": evaluated or size}
    return [f"sources.{source}.{key}={value}" for source in sources for key, value in sizes.items()]


def compose(*overrides: str, config: str = "train") -> DictConfig:
    """The config as `--cfg job` shows it; its interpolations resolve."""
    runtime = [f"hydra.runtime.cwd={ROOT}", "hydra.runtime.output_dir=/nowhere"]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose(config, [*runtime, *settable(overrides)], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    return cfg


def run(script: str, *overrides: str, out: Path) -> None:
    """`python <script> <overrides>` in this process; the run's folder is `out`."""
    before, folder, variables = list(sys.argv), os.getcwd(), dict(os.environ)
    # the tests' own logging stays as it is
    quiet = ["hydra/job_logging=none", "hydra/hydra_logging=none", f"hydra.run.dir={out}"]
    sys.argv = [str(ROOT / script), *quiet, *overrides]
    os.chdir(ROOT)
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        sys.argv = before
        os.chdir(folder)
        # Lightning leaves DDP's LOCAL_RANK, with which a command would wait for processes that others start
        os.environ.clear()
        os.environ.update(variables)
        # and its group of one process; in a forked copy of it, a collective never returns
        if dist.is_initialized():
            dist.destroy_process_group()


def command(script: str, *overrides: str, out: Path, env: dict[str, str] | None = None):
    """The same in a process of its own; the completed process with its texts."""
    return subprocess.run(
        [sys.executable, str(ROOT / script), *overrides, f"hydra.run.dir={out}"],
        cwd=ROOT,
        env=environment(**(env or {})),
        capture_output=True,
        text=True,
        timeout=600,
    )


@dataclass
class Finished:
    """What became of the processes of `forked`: their exit codes and all that they printed."""

    codes: list[int]
    text: str


def forked(
    script: str,
    *overrides: str,
    out: Path,
    processes: int = 1,
    timeout: float = 300,
    with_hydra: bool = True,
) -> Finished:
    """`torchrun --nproc_per_node=<processes> <script> <overrides>`, if possible in copies of this process.

    They need not import anything, and may be killed or leave as they like. `out` is the run's folder, which a
    script without Hydra is not told; what is printed goes beside it.
    """
    for module in IMPORTED:
        importlib.import_module(module)
    port = free_port()
    context = multiprocessing.get_context("fork" if _can_be_copied() else "spawn")
    printed = out.with_name(f"{out.name}.printed")
    out.parent.mkdir(parents=True, exist_ok=True)
    printed.write_text("")
    if with_hydra:
        overrides = (*overrides, f"hydra.run.dir={out}")
    arguments = (script, overrides, printed, processes, port)
    started = [context.Process(target=_forked, args=(rank, *arguments)) for rank in range(processes)]
    for process in started:
        process.start()
    end = time.monotonic() + timeout
    for process in started:
        process.join(max(0.1, end - time.monotonic()))
    late = [process for process in started if process.exitcode is None]
    for process in late:
        process.kill()
        process.join()
    text = printed.read_text(errors="replace")
    assert not late, f"{len(late)} processes did not end:\n{text[-3000:]}"
    return Finished([process.exitcode for process in started], text)


def _can_be_copied() -> bool:
    """Whether a copy of this process can train: not where a compiler has started threads of autograd."""
    trial = multiprocessing.get_context("fork").Process(target=_backward)
    trial.start()
    trial.join()
    return trial.exitcode == 0


def _backward() -> None:
    try:
        torch.ones(1, requires_grad=True).sum().backward()
    except RuntimeError:
        os._exit(1)
    os._exit(0)


def free_port() -> int:
    """A port that nobody listens on, below those that the system gives to connections by itself.

    One of the latter may be taken again, by the processes' own connections, before they meet on it.
    """
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port


def _forked(rank: int, script: str, overrides, printed: Path, processes: int, port: int) -> None:
    file = os.open(printed, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    # pytest's captured streams are not those of this process
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr
    for logger in ("lightning.pytorch", "lightning.fabric"):  # they remember the stream of their import
        for handler in logging.getLogger(logger).handlers:
            handler.stream = os.fdopen(os.dup(2), "w", buffering=1)
    if processes > 1:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        place |= {
            "GROUP_RANK": 0,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "TORCHELASTIC_RUN_ID": "test",
        }
        os.environ.update({k: str(v) for k, v in place.items()})
        overrides = [*overrides, f"trainer.devices={processes}"]
    os.chdir(ROOT)
    sys.argv = [str(ROOT / script), *overrides]
    code = 1
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)  # no cleaning up of what the test process still uses


def environment(**changes: str) -> dict[str, str]:
    """Of a process that finds the project and these helpers, on one thread.

    It is no worker of these tests: tests in it would share folders with whatever ran before (`sharing.py`).
    """
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    left_out = ("PYTEST_XDIST", "PYTHONDONTWRITEBYTECODE")  # without the latter, modules are compiled once
    own = {key: value for key, value in os.environ.items() if not key.startswith(left_out)}
    return {**own, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **changes}


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


class SignalOnce(Callback):
    """A signal in the middle of a training or validation batch, on process 0 and at the first start only."""

    def __init__(self, batch: int, kind: str, where: str, marker: str) -> None:
        self.batch, self.signum = batch, getattr(signal, kind)
        self.where, self.marker = where, Path(marker)

    def on_after_backward(self, trainer, pl_module) -> None:
        if self.where != "val" and trainer.fit_loop.epoch_loop.batch_idx == self.batch:
            self._raise(trainer)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        if self.where == "val" and dataloader_idx == 1 and trainer.state.fn == "fit":
            self._raise(trainer)

    def _raise(self, trainer) -> None:
        if trainer.is_global_zero and not self.marker.exists():
            self.marker.touch()
            if self.where == "workers":
                workers = [str(worker.pid) for worker in multiprocessing.active_children()]
                subprocess.run(["kill", f"-{int(self.signum)}", *workers], check=True)  # not from their run
                time.sleep(1)
            os.kill(os.getpid(), self.signum)


class InfiniteWeight(Callback):
    """Makes one weight infinite once so many steps are done."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step >= self.step:
            next(pl_module.parameters()).data.flatten()[0] = float("inf")


class InfiniteGradient(Callback):
    """Makes a gradient of one step infinite, as that of a loss that is not a number."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_after_backward(self, trainer, pl_module) -> None:
        if trainer.global_step == self.step:
            weight = next(p for p in pl_module.parameters() if p.grad is not None)
            weight.grad.flatten()[0] = float("inf")


class FullDisk(Callback):
    """From a step on no file of this process can grow beyond a size; at the first start only."""

    def __init__(self, step: int, bytes: int, marker: str) -> None:
        self.step, self.bytes, self.marker = step, bytes, Path(marker)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        import resource

        if trainer.global_step == self.step and not self.marker.exists():
            self.marker.touch()
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # else the process is killed
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.bytes, resource.RLIM_INFINITY))
