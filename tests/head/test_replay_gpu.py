"""CUDA graphs give what the passes themselves give: what tests/head/test_replay.py says of tapes."""

from __future__ import annotations

import copy
import gc
import warnings
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from tiny_mllm import make_mllm, training_batch

from ufo.head.decoding import Decoded, decode
from ufo.head.replay import recordings
from ufo.head.replay.cuda_graphs import CudaGraphs
from ufo.model import UFO
from ufo.types import Batch

pytestmark = pytest.mark.gpu


@torch.no_grad()
def decoded(model: UFO, batch: Batch, autocast: bool = False) -> Decoded:
    task = model.task(batch.task)
    asked = task.ask(batch, model.grid(task, *batch.image_size))
    with torch.autocast("cuda", torch.bfloat16) if autocast else nullcontext():
        context = model.encode(batch.images.cuda(), asked.prompts, asked.queries, task)
        return decode(model.backbone, context, model.tokenizer, task, batch.classes)


def compare(model: UFO, batches: list[Batch], autocast: bool = False) -> None:
    """Bit for bit is too much to ask: libraries choose other kernels for other numbers of rows."""
    model = model.cuda()
    expected = [decoded(model, batch, autocast) for batch in batches]
    model.use_cuda_graphs()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*is not recorded")
        for _ in range(4):
            for batch, right in zip(batches, expected, strict=True):
                found = decoded(model, batch, autocast)
                close = {"rtol": 0.05, "atol": 0.05} if autocast else {"rtol": 1e-3, "atol": 1e-3}
                torch.testing.assert_close(found.first_scores, right.first_scores, **close)
                first = found.ids[:, 0] == right.ids[:, 0]
                assert first.float().mean() >= 0.9
                torch.testing.assert_close(found.features[first, 0], right.features[first, 0], **close)
                if not autocast:
                    assert torch.equal(found.ids, right.ids)
                    torch.testing.assert_close(found.features, right.features, **close)
    assert len(model.backbone.replay.recordings) > 1


@pytest.mark.parametrize("autocast", [False, True])
def test_every_task_of_a_ufo_vit(make_model, make_batch, task_name, autocast):
    compare(make_model(seed=1), [make_batch(task_name, seed=seed) for seed in (0, 1)], autocast)


@pytest.mark.parametrize("autocast", [False, True])
def test_a_language_model(autocast):
    batch = training_batch()
    compare(make_mllm(), [batch, replace(batch, images=batch.images.flip(0, 3))], autocast)


def test_beams(make_model, make_batch):
    model = make_model(seed=1)
    model.tasks["caption"].num_beams = 3
    compare(model, [make_batch("caption", seed=seed) for seed in (0, 1)])


def test_recordings_come_and_go(make_model, make_batch, monkeypatch):
    """Dropped ones leave memory that others use; weights that move are read at their new place."""
    monkeypatch.setattr(recordings, "PATIENCE", 0)
    model, batch = make_model(seed=1).cuda(), make_batch("detection")
    plain = copy.deepcopy(model)
    model.use_cuda_graphs()
    model.backbone.replay.recordings._most = 2
    for _ in range(3):
        assert torch.equal(decoded(model, batch).ids, decoded(plain, batch).ids)
    for one in (model, plain):
        one.backbone.layers[0].fc1.weight.data = one.backbone.layers[0].fc1.weight.data * 1.5
    for _ in range(3):
        assert torch.equal(decoded(model, batch).ids, decoded(plain, batch).ids)


def test_garbage_that_holds_graphs_spoils_no_recording():
    """A graph goes with the garbage that it lies in, which is not allowed while a stream records."""
    left = []
    x = torch.ones(4, device="cuda")
    for _ in range(3):  # one for each time that the function runs
        left.append(torch.cuda.CUDAGraph())
        with torch.cuda.graph(left[-1]):
            x * 2

    def function(inputs):
        circle = [left.pop()]
        circle.append(circle)
        del circle
        made = [[] for _ in range(100)]  # collects garbage, where it is collected
        return {"y": inputs["x"] * 2 + len(made)}

    before = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        play = CudaGraphs().record(function, {"x": torch.ones(4, device="cuda")})
    finally:
        gc.set_threshold(*before)
    assert torch.equal(play()["y"], torch.full((4,), 102.0, device="cuda"))
