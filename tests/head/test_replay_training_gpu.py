"""CUDA graphs give the losses and gradients of the passes themselves: what test_replay_training.py says."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from recorders import waiting
from tiny_mllm import make_mllm, prepared, training_batch
from torch import Tensor
from torch.utils.data import DataLoader
from trainers import quiet_trainer

from ufo.model import UFO
from ufo.modules.ufo_vit import UFOViTModule
from ufo.types import Batch

pytestmark = pytest.mark.gpu

Found = tuple[Tensor, dict[str, Tensor]]


def found(model: UFO, batch: Batch, autocast: bool = False, seed: int = 0) -> Found:
    model.zero_grad()
    torch.manual_seed(seed)
    with torch.autocast("cuda", torch.bfloat16) if autocast else nullcontext():
        loss = model.loss(batch)["loss"]
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def same(some: Found, others: Found, tolerance: float) -> None:
    """Gradients within a share of the largest one of their weight."""
    torch.testing.assert_close(some[0], others[0], rtol=tolerance, atol=tolerance)
    assert some[1].keys() == others[1].keys()
    largest = max(float(x.abs().max()) for x in others[1].values())
    for name, gradient in others[1].items():
        difference = float((some[1][name] - gradient).abs().max())
        assert difference <= tolerance * max(float(gradient.abs().max()), 0.01 * largest), name


def in_turns(model: UFO, batches: list[Batch], autocast: bool = False) -> None:
    """Each batch as it is; then seen, recorded and replayed, in turns."""
    model = model.cuda().train()
    batches = [batch.to("cuda") for batch in batches]
    expected = [found(model, batch, autocast) for batch in batches]
    model.use_cuda_graphs(training=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*is not recorded")
        for _ in range(4):
            for batch, right in zip(batches, expected, strict=True):
                same(found(model, batch, autocast), right, 0.1 if autocast else 1e-3)
    assert len(model._learn.recordings)


@pytest.mark.parametrize("autocast", [False, True])
def test_every_task_of_a_ufo_vit(make_model, make_batch, task_name, autocast):
    model = make_model(seed=1)
    model.mask_points = 0
    batches = [make_batch(task_name, numbers, seed) for seed, numbers in enumerate([(2, 3), (1, 1)])]
    in_turns(model, batches, autocast)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("make", [make_mllm, prepared])
def test_language_models(make, autocast):
    batch = training_batch()
    in_turns(make(), [batch, replace(batch, images=batch.images.flip(0, 3))], autocast)


def test_what_is_random_is_drawn_alike(make_model, make_batch, mask_task):
    """By the first batch of a shape, by the one that is recorded, and by replayed ones."""
    model = make_model(seed=1, text_dropout=0.5, drop_path_rate=0.5).cuda().train()
    batch = make_batch(mask_task).to("cuda")
    model.use_cuda_graphs(training=True)
    first, *others = [found(model, batch, seed=5) for _ in range(4)]
    for other in others:
        same(other, first, 1e-3)
    assert not torch.equal(found(model, batch, seed=6)[0], first[0])


def test_a_replayed_pass_does_not_wait_for_the_device(make_model, make_batch, task_name):
    """Nor does all that is made of a batch before it."""
    model, batch = make_model(seed=1).cuda().train(), make_batch(task_name).to("cuda")
    model.use_cuda_graphs(training=True)
    for _ in range(3):
        found(model, batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        model.loss(batch)["loss"].backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_pass_that_waits_is_made_as_without(make_model, make_batch):
    model, batch = make_model(seed=1).cuda().train(), make_batch("caption").to("cuda")
    expected = found(model, batch)
    model.use_cuda_graphs(training=True)
    model.backbone.encode = waiting(model.backbone.encode)
    with pytest.warns(UserWarning, match="`training` of UFOViT is not recorded and runs as without"):
        for _ in range(3):
            same(found(model, batch), expected, 1e-3)
    assert not len(model._learn.recordings)


def test_an_earlier_loss_may_still_be_there(make_model, make_batch):
    """Its weights were used on another stream, which a recording must not wait for."""
    model, batch = make_model(seed=1).cuda().train(), make_batch("caption").to("cuda")
    model.use_cuda_graphs(training=True)
    kept = []
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*is not recorded")
        for _ in range(4):
            kept.append(model.loss(batch)["loss"])
            kept[-1].backward()
    assert len(model._learn.recordings) == 1


def test_lightning_trains_the_same_weights(make_model, make_batch):
    """Beside validations, whose recordings come and go."""
    tasks = ("instance_segmentation", "vqa", "detection")
    batches = [make_batch(task, seed=seed) for seed in range(4) for task in tasks]
    trained = []
    for graphs in (False, "all"):
        model = make_model(seed=1).train()
        model.mask_points = 0
        module = UFOViTModule(model, lambda groups: torch.optim.SGD(groups, 0.05), cuda_graphs=graphs)
        module._optimizer.keywords = {"lr": 0.05}
        trainer = quiet_trainer(
            accelerator="gpu", devices=1, max_epochs=1, val_check_interval=4, gradient_clip_val=0.1
        )
        loaders = (DataLoader(part, batch_size=None) for part in (batches, batches[:3]))
        trainer.fit(module, *loaders)
        trained.append({name: p.detach().cpu() for name, p in model.named_parameters()})
    assert len(model._learn.recordings) == 3
    for name, weight in trained[0].items():
        torch.testing.assert_close(trained[1][name], weight, rtol=1e-3, atol=1e-4)
