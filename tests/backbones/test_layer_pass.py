"""Passes through layers: compiled once for all layers and tasks, and computed again by some of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from tiny_mllm import FAMILIES, LORA, make_mllm, training_batch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd.graph import saved_tensors_hooks

from ufo.backbones import layer_pass
from ufo.backbones.vit_layers import Layer
from ufo.backbones.vit_passes import close_pass
from ufo.checkpoints.load import prepare_training
from ufo.model import UFO
from ufo.types import Batch

TASKS = ("detection", "instance_segmentation", "semantic_segmentation", "caption", "grounding")


@pytest.fixture
def count_graphs(monkeypatch) -> Iterator[Callable[[str], CompileCounterWithBackend]]:
    """Chooses what compiles; returns the counter of graphs."""

    def choose(backend: str) -> CompileCounterWithBackend:
        counter = CompileCounterWithBackend(backend)
        monkeypatch.setattr(layer_pass, "BACKEND", counter)
        return counter

    torch._dynamo.reset()
    yield choose
    torch._dynamo.reset()


def gradients(model: UFO, batch: Batch) -> dict[str, Tensor]:
    """Of one step, and its loss."""
    torch.manual_seed(0)
    model.zero_grad()
    loss = model.loss(batch)["loss"]
    loss.backward()
    return {"loss": loss.detach()} | {
        n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
    }


def check_equal(model: UFO, other: UFO, batch: Batch) -> None:
    found, expected = gradients(model, batch), gradients(other, batch)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5 * float(value.abs().max()))


def tiny_llm(family: str, adapters: bool, **changes) -> UFO:
    model = make_mllm(family, **changes)
    if adapters:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            prepare_training(model, {**LORA, "dropout": 0.1})
    return model.train()


def larger(batch: Batch) -> Batch:
    """More images, and another number of prompt tokens."""
    pairs = {name: getattr(batch, name) * 2 for name in ("boxes", "labels", "texts", "sizes")}
    return replace(batch, images=torch.cat([batch.images] * 2), classes=("cat", "owl", "bin"), **pairs)


@pytest.mark.slow
@pytest.mark.parametrize("backend, again", [("eager", 2), ("aot_eager", False)])
def test_a_vit_is_compiled_once_for_all_layers_and_tasks(
    backend, again, make_model, make_batch, count_graphs
):
    """Of the image's attention: one for windows, one for each size that global layers see."""
    settings = {"drop_path_rate": 0.3, "gradient_checkpointing": again, "new_layers": 4}
    plain, model = make_model(**settings).train(), make_model(**settings).train()
    counter = count_graphs(backend)
    model.compile_backbone()
    for task in TASKS:
        check_equal(model, plain, make_batch(task))
    graphs = counter.frame_count
    assert 5 <= graphs <= 8
    for task in TASKS:
        check_equal(model, plain, make_batch(task, (1, 2, 2), seed=1))
    assert counter.frame_count == graphs


@pytest.mark.slow
@pytest.mark.parametrize(
    "family, adapters, again", [("internvl", True, True), ("internvl", False, False), ("llava", False, 2)]
)
def test_a_decoder_is_compiled_once_for_all_layers(family, adapters, again, count_graphs):
    plain, model = (tiny_llm(family, adapters, gradient_checkpointing=again) for _ in range(2))
    counter = count_graphs("aot_eager" if adapters else "eager")
    model.compile_backbone()
    for batch in (training_batch(), larger(training_batch()), training_batch()):
        check_equal(model, plain, batch)
        assert counter.frame_count == 2  # the prefix's pass and the answers'


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler here")
def test_generated_kernels_compute_the_same(count_graphs):
    counter = count_graphs("inductor")
    torch.manual_seed(0)
    layer = Layer(16, 2, 32, 3, windowed=True, drop=None)
    for count in (5, 7):
        x, attended = torch.randn(2, count, 16)
        steps = []
        for function in (close_pass, layer_pass.compile_pass(close_pass)):
            layer.zero_grad()
            function(layer, x, attended, None).square().sum().backward()
            steps.append({n: p.grad.clone() for n, p in layer.named_parameters() if p.grad is not None})
        assert len(steps[0]) == 8 and steps[0].keys() == steps[1].keys()
        for name, expected in steps[0].items():
            torch.testing.assert_close(steps[1][name], expected, rtol=1e-4, atol=1e-4)
    assert counter.frame_count == 1


def test_predictions_run_as_written_and_names_stay(make_model, make_batch, count_graphs):
    plain, model = make_model(), make_model()
    counter = count_graphs("eager")
    model.compile_backbone()
    assert model.state_dict().keys() == plain.state_dict().keys()
    model.load_state_dict(plain.state_dict())
    batch = make_batch("grounding")
    for found, expected in zip(model.predict_batch(batch), plain.predict_batch(batch), strict=True):
        assert torch.equal(found.boxes, expected.boxes)
    assert counter.frame_count == 0


def saved_bytes(model: UFO, batch: Batch) -> int:
    """Memory that the forward pass keeps for the backward pass; weights and what is kept twice count once."""
    kept: dict[int, int] = {}
    held = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        held.append(tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        model.loss(batch)
    return sum(kept.values())


@pytest.mark.heavy
@pytest.mark.parametrize("family", ["ufo_vit", *FAMILIES])
def test_layers_that_are_computed_again_keep_less(family, make_model, make_batch):
    found, steps = [], []
    for again in (False, 2, True):
        vit = family == "ufo_vit"
        model = (
            make_model(gradient_checkpointing=again).train()
            if vit
            else tiny_llm(family, True, gradient_checkpointing=again)
        )
        batch = make_batch("detection") if vit else training_batch()
        found.append(saved_bytes(model, batch))
        steps.append(gradients(model, batch))
    none, some, every = found
    assert none > some > every
    assert all(torch.equal(step[name], steps[0][name]) for step in steps[1:] for name in steps[0])
