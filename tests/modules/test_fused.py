"""A fused optimizer: chosen where it helps, clipped as any other, and the weights are the same."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.utils.data import DataLoader
from trainers import quiet_trainer

from ufo.modules.fused import fused_where_faster
from ufo.modules.ufo_vit import UFOViTModule
from ufo.ops.launches import Launches

ADAMW = partial(torch.optim.AdamW, lr=1e-2)


def groups() -> list[dict]:
    torch.manual_seed(0)
    return [{"params": [torch.nn.Parameter(torch.randn(4, 3)) for _ in range(5)]}]


@pytest.mark.parametrize("stated", ["fused", "foreach"])
def test_what_a_user_states_stays(stated):
    for value in (True, False):
        factory = partial(ADAMW, **{stated: value})
        assert fused_where_faster(factory, groups(), {"cpu"}) is factory


def test_fused_where_class_and_device_have_it():
    assert fused_where_faster(ADAMW, groups(), {"cpu"}).keywords["fused"] is True
    assert fused_where_faster(ADAMW, groups()) is ADAMW  # on a CPU
    assert fused_where_faster(ADAMW, [{"params": [torch.zeros(2, device="meta")]}], {"cpu"}) is ADAMW
    rprop = partial(torch.optim.Rprop, lr=1e-2)
    assert fused_where_faster(rprop, groups(), {"cpu"}) is rprop


def test_three_clipped_steps_give_the_same_weights_in_fewer_pieces():
    results = []
    for factory in (ADAMW, fused_where_faster(ADAMW, groups(), {"cpu"})):
        mine = groups()
        optimizer, weights = factory(mine), mine[0]["params"]
        with Launches() as launches:
            for step in range(3):
                for i, weight in enumerate(weights):
                    weight.grad = weight.detach() * (step + i)
                torch.nn.utils.clip_grad_norm_(weights, 0.1)
                optimizer.step()
        results.append((torch.cat([w.detach().flatten() for w in weights]), launches.total))
    (plain, many), (fused, few) = results
    torch.testing.assert_close(fused, plain, rtol=1e-6, atol=1e-7)
    assert few < many


def test_an_optimizer_is_made_before_there_is_a_trainer(make_model):
    """A checkpoint is compared with the optimizer before the training that it is for."""
    made = UFOViTModule(make_model(), ADAMW).configure_optimizers()
    assert isinstance(made, torch.optim.AdamW) and not made.defaults["fused"]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_clips_a_fused_optimizer(precision, make_model, make_batch, tmp_path):
    """Lightning alone refuses this under bf16-mixed."""
    weights = []
    for fused in (False, True):
        module = UFOViTModule(make_model(), partial(ADAMW, fused=fused, eps=1e-3))
        trainer = quiet_trainer(
            max_steps=3,
            precision=precision,
            gradient_clip_val=0.1,
            default_root_dir=tmp_path,
        )
        trainer.fit(module, DataLoader([make_batch("detection", seed=i) for i in range(3)], batch_size=None))
        weights.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-5)
    assert not torch.equal(weights[0], torch.cat([p.flatten() for p in make_model().parameters()]))
