"""Several processes on the CPU (gloo) against one: the same metrics, the same gradients."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from commands import (
    DENSE,
    HEADLINES,
    NETWORK,
    QUICK,
    SGD,
    SHIPPED,
    SHIPPED_RUN,
    TASKS,
    batches,
    command,
    forked,
    metrics,
    needs_weights,
    resolution,
    run,
)
from recorders import Tapes
from safetensors.torch import load_file
from sharing import shared
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ufo.head.replay import replay_training
from ufo.types import Batch

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


@pytest.fixture(scope="module")
def two(scenes, tmp_path_factory) -> Path:
    """The folder of four steps in two processes with two images each."""

    def train(out: Path) -> None:
        settings = [*SMALL, *FIXED, *SGD, *scenes, *batches(2, *TASKS, evaluated=8), *FOUR]
        done = command("train.py", *settings, *TWO, out=out)
        assert done.returncode == 0, done.stderr
        assert "2 processes" in done.stderr + done.stdout

    return shared(tmp_path_factory, "two_processes", train)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def test_two_processes_train_as_one_with_twice_the_batch(two, scenes, tmp_path):
    alone = [*SMALL, *FIXED, *SGD, *scenes, *batches(4, *TASKS), "+trainer.limit_val_batches=0"]
    run("train.py", *alone, *FOUR, out=tmp_path / "one")
    still = ["optimizer.lr=1e-30", "schedule.min_lr=0", "logger=none"]
    run("train.py", *alone, *still, out=tmp_path / "start")
    before, one, both = (weights(folder) for folder in (tmp_path / "start", tmp_path / "one", two))
    steps = {name: one[name] - before[name] for name in before}
    assert sum(step.abs().max() > 1e-4 for step in steps.values()) > len(steps) / 2
    largest = max(float(step.abs().max()) for step in steps.values())
    for name, step in steps.items():
        error = (both[name] - one[name]).abs().max()
        assert error <= 1e-3 * largest, (name, float(error), float(step.abs().max()))


@needs_weights
def test_one_two_and_three_processes_measure_the_same(scenes, tmp_path):
    """Seven images, so that the sampler repeats some; a model that has learnt, in batches of 4, 3 and 1."""
    settings = [f"ckpt={SHIPPED}", *SHIPPED_RUN, *scenes, "trainer.precision=32-true", "trainer=ddp"]
    for processes, size in ((1, 4), (2, 3), (3, 1)):
        out = tmp_path / str(processes)
        arguments = [*settings, *batches(size, *TASKS), "logger=csv", "trainer.devices=1"]
        done = forked("evaluate.py", *arguments, out=out, processes=processes)
        assert done.codes == [0] * processes, done.text
    found = metrics(tmp_path / "1")
    assert metrics(tmp_path / "2") == pytest.approx(found, abs=1e-5)
    assert metrics(tmp_path / "3") == pytest.approx(found, abs=1e-5)
    for name, metric in HEADLINES.items():
        assert found[f"val/digits/{name}/{metric}"] > 0.05, name
    one = evidence(tmp_path / "1")
    counted = {name: source["images"] for name, source in one["sources"].items()}
    assert one["trivial"] and counted.pop("digits/grounding") > 7  # one for each expression
    assert set(counted.values()) == {7}
    for processes in ("2", "3"):
        assert_same_evidence(evidence(tmp_path / processes), one)
        assert "<figure" in (tmp_path / processes / "report.html").read_text()


def evidence(folder: Path) -> dict:
    """What an evaluation has left for its report."""
    return json.loads((folder / "evidence.json").read_text())


def assert_same_evidence(found: dict, expected: dict) -> None:
    """The same images, mistakes and pictures; a score may be on the other side of one step."""
    assert found["trivial"] == pytest.approx(expected["trivial"], abs=1e-5)
    assert found["sources"].keys() == expected["sources"].keys()
    for name, one in expected["sources"].items():
        other = found["sources"][name]
        for part in ("images", "there", "pairs", "faults"):
            assert other[part] == one[part], (name, part)
        assert other["scores"] == pytest.approx(one["scores"], abs=1e-3), name
        sums = [
            {label: [sum(counts) for counts in both] for label, both in s["said"].items()}
            for s in (one, other)
        ]
        assert sums[0] == sums[1], name
        shown = [
            [(p["file"], p["faults"], p["names"], p["said"]) for p in s["pictures"]] for s in (one, other)
        ]
        assert sorted(shown[0]) == sorted(shown[1]) != [], name


def test_one_process_keeps_the_record_and_the_pictures(two):
    """No second process has written a model, a log or pictures beside the first one's."""
    assert len(list(two.glob("csv/version_*"))) == 1
    assert len(list(two.glob("tensorboard/events*"))) == 1
    assert len(list(two.glob("pictures/*/*.png"))) == len(TASKS)
    assert [p.name for p in two.glob(".model*")] == []


class Loss(nn.Module):
    """Lets DDP see `UFO.loss` as a forward pass."""

    def __init__(self, model) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> torch.Tensor:
        return self.model.loss(batch)["loss"]


def part(batch: Batch, i: int) -> Batch:
    """Image `i` alone."""
    values = {f.name: getattr(batch, f.name) for f in fields(batch) if f.name != "classes"}
    cut = {k: v[i : i + 1] for k, v in values.items() if isinstance(v, (list, torch.Tensor)) and len(v)}
    return replace(batch, **cut)


def gradients(module: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
    module.zero_grad(set_to_none=True)
    module(batch).backward()
    named = ((name.removeprefix("module."), p.grad) for name, p in module.named_parameters())
    return {name: torch.zeros(()) if grad is None else grad.clone() for name, grad in named}


def each_process(rank: int, folder: str, model, examples: dict[str, Batch], replayed: bool) -> None:
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    tapes = Tapes()
    if replayed:
        model._learn = replay_training(model.backbone, tapes, 999)
    module = DistributedDataParallel(Loss(model), find_unused_parameters=True)
    for _ in range(3 if replayed else 1):
        found = {key: gradients(module, part(batch, rank)) for key, batch in examples.items()}
    assert (tapes.played > len(tapes.recorded) > 0) == replayed
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("replayed", [False, True])
def test_two_processes_with_one_image_have_the_gradients_of_one_with_two(
    make_model, make_batch, tmp_path, replayed
):
    """Every task, with other numbers of objects on each process, and none on one: losses are normalised by
    counts over all processes. What is random about targets is switched off, since it is drawn per process."""
    model = make_model().train()
    model.mask_points = 0
    for task in model.tasks.values():
        for name, value in {"samples_per_window": 4, "assign_noise": 0.0}.items():
            if hasattr(task, name):
                setattr(task, name, value)
    pairs = [(name, (1, 3)) for name in model.tasks] + [(name, (0, 3)) for name in DENSE]
    examples = {f"{name} {counts}": make_batch(name, counts) for name, counts in pairs}
    arguments = (str(tmp_path), model, examples, replayed)
    mp.start_processes(each_process, arguments, nprocs=2, start_method="fork")
    found = torch.load(tmp_path / "0.pt")
    for key, batch in examples.items():
        expected = gradients(Loss(model), batch)
        assert found[key].keys() == expected.keys()
        largest = max(float(g.abs().max()) for g in expected.values())
        assert largest > 1e-4, key
        for name, gradient in expected.items():
            difference = float((found[key][name] - gradient).abs().max())
            assert difference < 1e-5 * largest, (key, name, difference, largest)
