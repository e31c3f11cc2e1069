"""Every task on every family of language models: one step of training, one prediction, LoRA."""

from __future__ import annotations

import copy

import pytest
import torch
from mllm_models import FAMILIES, answers, encode, make_backbone
from tiny_mllm import LORA

from ufo.backbones.lora import apply_lora, merge_lora
from ufo.backbones.mllm import MLLM
from ufo.model import UFO
from ufo.types import Batch, Prediction

pytestmark = pytest.mark.heavy

CLASSES = ("cat", "owl")
DENSE = ("detection", "instance_segmentation", "semantic_segmentation")
SIZES = [(30, 40), (24, 24)]  # of the original images


@pytest.fixture(scope="module", params=FAMILIES)
def made(request):
    return make_backbone(request.param)


def model_of(made, make_tiny_task, name: str) -> UFO:
    """A model of its own with one task: what it learns disturbs no other test."""
    backbone, tokenizer = made
    classes = {name: CLASSES} if name in DENSE else {}
    return UFO(copy.deepcopy(backbone), tokenizer, {name: make_tiny_task(name)}, classes, mask_points=0)


def step(model: UFO, batch: Batch) -> dict[str, torch.Tensor]:
    """One step of training; returns the gradients by name."""
    losses = model.train().loss(batch)
    losses["loss"].backward()
    assert losses["loss"] > 0 and all(value.isfinite() for value in losses.values())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 1e-3 * parameter.grad.sign()
    return {n: p.grad for n, p in model.backbone.named_parameters() if p.grad is not None and p.grad.any()}


def test_every_task_is_learned_and_answered(made, make_tiny_task, make_batch, task_name):
    model, batch = model_of(made, make_tiny_task, task_name), make_batch(task_name)
    before = model.loss(batch)["loss"].item()
    learned = step(model, batch)
    parts = {model.backbone.part_of(name) for name in learned}
    assert parts == {"vision", "projector", "embeddings", "lm"}
    layers = {model.backbone.layer_of(name) for name in learned} - {None}
    assert layers == {0, 1, 2}
    assert model.eval().loss(batch)["loss"].item() != before
    batch.sizes = SIZES
    for size, prediction in zip(SIZES, model.predict_batch(batch), strict=True):
        check(prediction, size)


def test_a_batch_may_have_nothing_to_learn(made, make_tiny_task, make_batch):
    """No pixel of a crop may be labelled; other processes wait for all gradients there, too."""
    model, reached = model_of(made, make_tiny_task, "semantic_segmentation").train(), []
    for objects in ((1, 2), (0, 0)):
        model.zero_grad()
        loss = model.loss(make_batch("semantic_segmentation", objects))["loss"]
        loss.backward()
        reached.append({n for n, p in model.named_parameters() if p.grad is not None})
    assert loss == 0 and reached[0] == reached[1]
    assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)


def check(prediction: Prediction, size: tuple[int, int]) -> None:
    """Predictions are in the original image's pixels."""
    if prediction.task == "detection":
        assert prediction.boxes.shape == (len(prediction.scores), 4) == (len(prediction.labels), 4)
    elif prediction.task == "instance_segmentation":
        assert prediction.masks.shape == (len(prediction.scores), *size)
    elif prediction.task == "semantic_segmentation":
        assert prediction.semantic.shape == size
    elif prediction.task == "grounding":
        assert prediction.boxes.shape == (1, 4)
    elif prediction.task in ("referring_segmentation", "reasoning_segmentation"):
        assert prediction.masks.shape == (1, *size)
    else:
        assert isinstance(prediction.text, str)


def adapted(made) -> MLLM:
    backbone = copy.deepcopy(made[0])
    apply_lora(backbone, LORA)
    return backbone


def test_a_lora_learns_and_is_merged(made, make_tiny_task, make_batch):
    backbone, tokenizer = adapted(made), made[1]
    model = UFO(backbone, tokenizer, {"detection": make_tiny_task("detection")}, {"detection": CLASSES})
    with torch.no_grad():
        before = backbone.answer(encode(backbone, tokenizer), answers(2))
        plain = made[0].answer(encode(*made), answers(2))
    assert torch.equal(before, plain)  # an adapter starts as nothing
    learned = step(model, make_batch("detection"))
    # of an adapter that starts as nothing only one factor has a gradient
    assert {n for n in learned if ".lora_B." in n} and not {n for n in learned if ".visual." in n}
    assert all(".lora_" in n or backbone.part_of(n) == "embeddings" for n in learned)
    backbone.eval()
    with torch.no_grad():
        after = backbone.answer(encode(backbone, tokenizer), answers(2))
        merge_lora(backbone)
        merged = backbone.answer(encode(backbone, tokenizer), answers(2))
    assert (after - before).abs().max() > 1e-4
    torch.testing.assert_close(merged, after, rtol=1e-4, atol=1e-4)
    assert not [n for n, _ in backbone.named_parameters() if "lora" in n]
