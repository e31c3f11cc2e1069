"""On a GPU: predictions of a CPU, bounds in bfloat16, nothing that waits for the device, memory budgets."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from tiny_mllm import make_mllm, training_batch

from ufo.backbones.context import AnswerCache
from ufo.memory.meta import activations
from ufo.tasks import task_names

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
STEP_MB = 200  # of a training step of the tiny model


@contextmanager
def no_waiting():
    """Raises where the host would wait for the device."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def assert_same(found, expected) -> None:
    """Same words and objects; boxes and scores within rounding, masks but for pixels on the threshold."""
    assert found.text == expected.text
    for name in ("labels", "boxes", "scores"):
        mine, theirs = getattr(found, name), getattr(expected, name)
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine.cpu(), theirs.cpu(), rtol=1e-3, atol=1e-3)
    for name in ("masks", "semantic"):
        mine, theirs = getattr(found, name), getattr(expected, name)
        if theirs is not None and theirs.numel():
            assert mine.shape == theirs.shape
            assert (mine.cpu() != theirs.cpu()).float().mean() < 0.01


@pytest.mark.parametrize("task", task_names())
def test_predictions__are_those_of_a_cpu(task, make_model, make_batch):
    model, batch = make_model(), make_batch(task)
    expected = model.predict_batch(batch)
    found = model.cuda().predict_batch(batch.to("cuda"))
    for mine, theirs in zip(found, expected, strict=True):
        assert_same(mine, theirs)


@pytest.mark.parametrize("task", task_names())
def test_bfloat16__loss_is_near_that_of_float32(task, make_model, make_batch):
    model, batch = make_model().cuda(), make_batch(task).to("cuda")
    torch.manual_seed(0)
    expected = model.loss(batch)["loss"]
    torch.manual_seed(0)
    with torch.autocast("cuda", torch.bfloat16):
        found = model.loss(batch)["loss"]
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("task", task_names())
def test_encode_and_answer__do_not_wait_for_the_device(task, make_model, make_batch):
    model, batch = make_model().cuda(), make_batch(task).to("cuda")
    chosen = model.task(task)
    asked = chosen.ask(batch, model.grid(chosen, *batch.image_size))
    ids, mask = (x.cuda() for x in model.tokenizer.encode_prompts(asked.prompts))
    queries = None if asked.queries is None else asked.queries.map(lambda x: x.cuda())
    check_passes(model.backbone, (batch.images, ids, mask, queries))


def test_encode_and_answer__of_a_language_model_do_not_wait(make_batch):
    model, batch = make_mllm().cuda(), training_batch().to("cuda")
    task = model.task(batch.task)
    asked = task.ask(batch, model.grid(task, *batch.image_size))
    prompts = [model.backbone.chat(prompt) for prompt in asked.prompts]
    ids, mask = (x.cuda() for x in model.tokenizer.encode_prompts(prompts))
    queries = None if asked.queries is None else asked.queries.map(lambda x: x.cuda())
    check_passes(model.backbone, (batch.images, ids, mask, queries))


@torch.no_grad()
def check_passes(backbone, arguments) -> None:
    """Twice: what is remembered of a prompt or a table may be made at the first time."""
    rows = backbone.encode(*arguments).num_rows
    ids = torch.zeros(rows, 1, dtype=torch.int64, device="cuda")
    backbone.answer(backbone.encode(*arguments), ids, cache=AnswerCache(3))
    backbone.train().eval()  # forgets prompts: knowing one again asks for its tokens
    backbone.read_prompt = backbone.encode_prompt  # knowing a prompt again looks at its tokens, on the host
    try:
        with no_waiting():
            context, cache = backbone.encode(*arguments), AnswerCache(3)
            backbone.answer(context, ids, cache=cache)
            backbone.answer(context, ids, cache=cache)
    finally:
        del backbone.read_prompt


def test_training_step__stays_in_its_budget(make_model, make_batch):
    model, batch = make_model().cuda().train(), make_batch("detection").to("cuda")
    model.loss(batch)["loss"].backward()  # libraries take their memory
    model.zero_grad()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    model.loss(batch)["loss"].backward()
    peak = torch.cuda.max_memory_allocated() - before
    assert peak < STEP_MB * 1e6
    on_paper, images = model.to("meta"), batch.to("meta")
    estimated = activations(on_paper, lambda: on_paper.loss(images)["loss"], None).peak
    assert estimated < 2 * peak + 50e6
