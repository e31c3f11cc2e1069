"""Two processes on the CPU (gloo) against one: the same metrics, the same gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from commands import (
    NETWORK,
    QUICK,
    SCENES,
    SHIPPED,
    SHIPPED_RUN,
    TASKS,
    batches,
    command,
    digits,
    metrics,
    needs_weights,
    resolution,
    run,
)
from safetensors.torch import load_file

from ufo.cli.demo import HEADLINES
from ufo.data.digits import generate

pytestmark = pytest.mark.slow

TWO = ["trainer.devices=2", "trainer.strategy=ddp"]
SMALL = [*NETWORK, *QUICK, *resolution(56, 56)]
# what is random about a batch's targets is drawn per process: the places of the sampled points of masks, and
# the negatives where a window has more queries than are trained
FIXED = [
    "sources.instance_segmentation.weight=0",
    "sources.semantic_segmentation.weight=0",
    "tasks.detection.grid_per_window=4",
    "tasks.detection.samples_per_window=16",
]
FOUR = ["trainer.max_steps=4", "trainer.val_check_interval=4"]
# Adam would turn round-off into steps of full size
SGD = ["optimizer._target_=torch.optim.SGD", "~optimizer.betas", "optimizer.lr=0.5"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> list[str]:
    return digits(generate(tmp_path_factory.mktemp("scenes") / "digits", **SCENES, progress=False))


@pytest.fixture(scope="module")
def two(scenes, tmp_path_factory) -> Path:
    """The folder of four steps in two processes with two images each."""
    out = tmp_path_factory.mktemp("two")
    done = command("train.py", *SMALL, *FIXED, *SGD, *scenes, *batches(2, *TASKS), *FOUR, *TWO, out=out)
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stderr + done.stdout
    return out


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def test_two_processes_train_as_one_with_twice_the_batch(two, scenes, tmp_path):
    run("train.py", *SMALL, *FIXED, *SGD, *scenes, *batches(4, *TASKS), *FOUR, out=tmp_path / "one")
    start = [*SMALL, *FIXED, *SGD, *scenes, *batches(4, *TASKS), "optimizer.lr=0", "logger=none"]
    run("train.py", *start, "schedule.min_lr=0", out=tmp_path / "start")
    before, one, both = (weights(folder) for folder in (tmp_path / "start", tmp_path / "one", two))
    steps = {name: one[name] - before[name] for name in before}
    assert sum(step.abs().max() > 1e-4 for step in steps.values()) > len(steps) / 2
    largest = max(float(step.abs().max()) for step in steps.values())
    for name, step in steps.items():
        error = (both[name] - one[name]).abs().max()
        assert error <= 1e-3 * largest, (name, float(error), float(step.abs().max()))


def test_two_processes_log_the_metrics_of_one(two, scenes, tmp_path):
    """Seven images, so that the sampler repeats one."""
    run("evaluate.py", f"ckpt={two}", *SMALL, *FIXED, *scenes, *batches(3, *TASKS), out=tmp_path)
    assert metrics(tmp_path) == pytest.approx(metrics(two), abs=1e-6)


@needs_weights
def test_two_processes_evaluate_a_model_that_has_learnt_as_one(scenes, tmp_path):
    settings = [f"ckpt={SHIPPED}", *SHIPPED_RUN, *scenes, "trainer.precision=32-true"]
    done = command("evaluate.py", *settings, *batches(2, *TASKS), *TWO, out=tmp_path / "two")
    assert done.returncode == 0, done.stderr
    run("evaluate.py", *settings, *batches(4, *TASKS), out=tmp_path / "one")
    found = metrics(tmp_path / "one")
    assert metrics(tmp_path / "two") == pytest.approx(found, abs=1e-5)
    for name, metric in HEADLINES.items():
        assert found[f"val/digits/{name}/{metric}"] > 0.05, name


def test_one_process_keeps_the_record_and_the_pictures(two):
    """No second process has written a model, a log or pictures beside the first one's."""
    assert len(list(two.glob("csv/version_*"))) == 1
    assert len(list(two.glob("tensorboard/events*"))) == 1
    assert len(list(two.glob("pictures/*/*.png"))) == len(TASKS)
    assert [p.name for p in two.glob(".model*")] == []
