"""The best values of metrics, the worst images, operations and gradient norms."""

from __future__ import annotations

import json
import random

import pytest
import torch
from metric_examples import CLASSES, METRICS, Replay, example
from torch import nn
from torch.utils.data import DataLoader
from trainers import quiet_trainer

from ufo.callbacks.best import BestMetrics
from ufo.callbacks.flops import StepFlops, named_peak
from ufo.callbacks.pictures import Pictures
from ufo.callbacks.worst import WorstPredictions
from ufo.tasks import kind_of, task_names
from ufo.types import Batch


def batch(task: str, pairs: list) -> Batch:
    images = torch.zeros(len(pairs), 3, 8, 8, dtype=torch.uint8)
    return Batch(task, f"toys/{task}", CLASSES, images, [""] * len(pairs), targets=[t for _, t in pairs])


@pytest.mark.parametrize("task", task_names())
def test_an_image_done_worse_has_a_lower_score_and_is_kept(task, tmp_path):
    """Images 0 to 5: perfect, empty, and four with some noise; the empty one is the worst."""
    pairs = [example(task, i, noise=0.0 if i == 0 else 0.3) for i in range(6)]
    pairs[1] = example(task, 1, 0.0, empty=True)
    kind, worst = kind_of(task), WorstPredictions(tmp_path, num_images=2)
    for part in (pairs[:3], pairs[3:]):
        worst.keep([p for p, _ in part], batch(task, part))
    scores = {target.id: kind.score(prediction, target, CLASSES) for prediction, target in pairs}
    assert scores[0] == pytest.approx(1.0) and all(0 <= s <= 1 for s in scores.values())
    assert min(scores, key=scores.get) == 1
    kept = worst._kept[f"toys/{task}"]
    assert [k.example.target.id for k in kept] == sorted(scores, key=lambda i: (scores[i], i))[:2]
    assert len(kept[0].row()) == 5


def test_only_certain_objects_are_kept():
    prediction, _ = example("instance_segmentation", 3, 0.0)
    few = kind_of("instance_segmentation").best(prediction, 1)
    assert len(few.masks) == len(few.scores) == len(few.labels) == 1
    assert few.scores[0] == prediction.scores.max()


@pytest.mark.heavy
def test_the_order_of_callbacks_does_not_matter(tmp_path):
    """Metrics, best values and the worst images are the same however the callbacks are listed."""
    tasks = task_names()
    results = []
    for seed in range(3):
        folder = tmp_path / str(seed)
        callbacks = [metric() for metric in METRICS]
        callbacks += [BestMetrics(folder), WorstPredictions(folder / "worst"), Pictures(folder / "pictures")]
        random.Random(seed).shuffle(callbacks)
        data = [
            DataLoader([batch(task, [example(task, i, 0.3) for i in range(3)])], batch_size=None)
            for task in tasks
        ]
        run = quiet_trainer(devices=1, callbacks=callbacks)
        run.validate(Replay(0.3), data, verbose=False)
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}
        results.append(({name: float(v) for name, v in run.callback_metrics.items()}, files))
    assert results[0] == results[1] == results[2]
    best = json.loads((tmp_path / "0" / "metrics.json").read_text())
    marked = {name.rpartition("/")[0] for name, values in best.items() if values.get("headline")}
    assert marked == {f"val/toys/{task}" for task in tasks}
    names = {path for path in results[0][1] if path.endswith(".csv")}
    assert names == {f"worst/step_000000/toys_{task}.csv" for task in tasks}


def test_best_values_survive_a_resume(tmp_path):
    best = BestMetrics(tmp_path)
    for step, value in ((1, 0.5), (2, 0.25)):
        best.update("val/a/mAP", value, step)
        best.update("val/a/loss", value, step)
    again = BestMetrics(tmp_path)
    again.load_state_dict(json.loads(json.dumps(best.state_dict())))
    again.update("val/a/mAP", 0.4, 3)
    assert again.metrics["val/a/mAP"] == {"best": 0.5, "last": 0.4, "step": 1}
    assert again.metrics["val/a/loss"] == {"best": 0.25, "last": 0.25, "step": 2}
    again.update("val/a/new", float("nan"), 3)
    again.update("val/a/new", 0.1, 4)
    assert again.metrics["val/a/new"]["best"] == 0.1


def test_operations_are_those_of_the_matrices():
    layer, flops = nn.Linear(8, 4, bias=False), StepFlops()
    assert flops.start("a")
    layer(torch.ones(16, 8, requires_grad=True)).sum().backward()
    flops.stop(finished=True)
    assert flops.known["a"] == 3 * 2 * 16 * 8 * 4  # forward, and two in the backward pass
    assert not flops.start("a")
    assert flops.start("b")
    flops.stop()
    assert "b" not in flops.known


def test_peaks_are_found_by_name():
    assert named_peak("NVIDIA A100-SXM4-80GB") == 312e12
    assert named_peak("NVIDIA H100 PCIe") == 756e12
    assert named_peak("NVIDIA H100 80GB HBM3") == 989e12
    assert named_peak("NVIDIA RTX A4000") is None
