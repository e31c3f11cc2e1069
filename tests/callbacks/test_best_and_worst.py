"""The best values of metrics, the worst images, operations and gradient norms."""

from __future__ import annotations

import json

import pytest
import torch
from metric_examples import CALLBACKS, CLASSES, example
from torch import nn

from ufo.callbacks.best import BestMetrics
from ufo.callbacks.flops import StepFlops, named_peak
from ufo.callbacks.worst import WorstPredictions, trimmed
from ufo.types import Batch


def batch(task: str, pairs: list) -> Batch:
    images = torch.zeros(len(pairs), 3, 8, 8, dtype=torch.uint8)
    return Batch(task, f"toys/{task}", CLASSES, images, [""] * len(pairs), targets=[t for _, t in pairs])


@pytest.mark.parametrize("task", CALLBACKS)
def test_an_image_done_worse_has_a_lower_score_and_is_kept(task, tmp_path):
    """Images 0 to 5: perfect, empty, and four with some noise; the empty one is the worst."""
    pairs = [example(task, i, noise=0.0 if i == 0 else 0.3) for i in range(6)]
    pairs[1] = example(task, 1, 0.0, empty=task != "semantic_segmentation")
    if task == "semantic_segmentation":
        pairs[1][0].semantic = (pairs[1][0].semantic + 1) % len(CLASSES)
    metric, worst = CALLBACKS[task](), WorstPredictions(tmp_path, num_images=2)
    for part in (pairs[:3], pairs[3:]):
        current = batch(task, part)
        metric.collect([p for p, _ in part], current)
        if not metric.scores:
            pytest.skip("its metric scores no single images")
        worst.keep([p for p, _ in part], current, metric.scores[current.source])
    scores = metric.scores[f"toys/{task}"]
    assert scores[0] == pytest.approx(1.0) and all(0 <= s <= 1 for s in scores.values())
    assert min(scores, key=scores.get) == 1
    kept = worst._kept[f"toys/{task}"]
    assert [k.example.target.id for k in kept] == sorted(scores, key=lambda i: (scores[i], i))[:2]
    assert len(kept[0].row()) == 5


def test_only_certain_objects_are_kept():
    prediction, _ = example("instance_segmentation", 3, 0.0)
    few = trimmed(prediction, 1)
    assert len(few.masks) == len(few.scores) == len(few.labels) == 1
    assert few.scores[0] == prediction.scores.max()


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
