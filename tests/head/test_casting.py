"""Weights that are cast once per batch: the same predictions, of the weights of now."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from ufo.head.casting import casting_once
from ufo.ops.launches import Launches

TASKS = ("detection", "semantic_segmentation", "caption")


def autocast() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


@contextmanager
def casting_always(model):
    yield


def same(one, other) -> None:
    for a, b in zip(one, other, strict=True):
        for name in ("boxes", "scores", "labels", "masks", "semantic", "text"):
            x, y = getattr(a, name, None), getattr(b, name, None)
            assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y, name


@pytest.mark.parametrize("task", TASKS)
def test_predictions_stay_the_same_bit_for_bit(task, make_model, make_batch, monkeypatch):
    model, batch = make_model(), make_batch(task)
    with torch.inference_mode(), autocast():
        once = model.predict_batch(batch)
        monkeypatch.setattr("ufo.model.casting_once", casting_always)
        same(once, model.predict_batch(batch))


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_a_weight_is_cast_once_frozen_or_not(mode):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    model[1].requires_grad_(False)
    with mode(), autocast():
        x = torch.randn(2, 4).bfloat16()
        with casting_once(model):
            with Launches() as first:
                model(x)
            with Launches() as second:
                model(x)
    assert (first.casts, second.casts) == (4, 0)
    assert [p.requires_grad for p in model.parameters()] == [True, True, False, False]


def test_other_weights_are_met_by_the_next_batch(make_model, make_batch):
    """Averaged or loaded ones, also inside one autocast."""
    model, other, batch = make_model(), make_model(seed=3), make_batch("detection")
    with torch.inference_mode(), autocast():
        expected = other.predict_batch(batch)
        model.predict_batch(batch)
        for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
            mine.data.copy_(theirs.data)
        model.eval()
        same(model.predict_batch(batch), expected)


def test_training_goes_on_after_a_prediction_under_the_same_autocast(make_model, make_batch):
    model = make_model()
    with autocast():
        model.predict_batch(make_batch("detection"))
        model.loss(make_batch("detection"))["loss"].backward()
    assert model.backbone.layers[0].qkv.weight.grad.abs().max() > 0


def test_weights_stay_frozen_where_a_prediction_fails():
    model = torch.nn.Linear(2, 2).requires_grad_(False)
    with autocast(), pytest.raises(KeyError), casting_once(model):
        raise KeyError
    assert not model.weight.requires_grad
