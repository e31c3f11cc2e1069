"""Learning rates: the ramp over layers and warm-up + cosine."""

import math

import pytest
import torch
from torch import nn

from ufo.modules.schedule import LayerRamp, parameter_groups, warmup_cosine


@pytest.mark.parametrize(
    ("layer", "factor"), [(None, 0.1), (0, 0.1), (5, 0.1), (6, 0.1 + 0.9 / 7), (12, 1.0), (17, 1.0)]
)
def test_the_ramp_of_the_base_model(layer, factor):
    assert LayerRamp(low=0.1, first=5, last=12).factor(layer, is_text=False) == pytest.approx(factor)


def test_text_has_the_full_rate_whatever_its_layer():
    assert LayerRamp(low=0.1, first=5, last=12).factor(None, is_text=True) == 1.0


def test_groups_hold_every_trained_parameter_once(make_backbone):
    backbone = make_backbone()
    backbone.pos_embed.requires_grad_(False)
    head = nn.Linear(2, 2)
    groups = parameter_groups(backbone, head.parameters(), 1e-3, LayerRamp(low=0.5, first=0, last=2))
    found = [id(p) for group in groups for p in group["params"]]
    trained = [id(p) for p in [*backbone.parameters(), *head.parameters()] if p.requires_grad]
    assert sorted(found) == sorted(trained)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert rate[id(backbone.patch_embed.weight)] == pytest.approx(5e-4)
    assert rate[id(backbone.layers[1].fc1.weight)] == pytest.approx(7.5e-4)
    assert rate[id(backbone.embedding.word.weight)] == rate[id(head.weight)] == pytest.approx(1e-3)
    backbone.pos_embed.requires_grad_(True)


def rates(steps: int, **settings) -> list[list[float]]:
    """The rate of each of two groups (peaks 1 and 0.1) at every step."""
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 0.1)]
    optimizer = torch.optim.SGD(groups)
    schedule = warmup_cosine(optimizer, **settings)
    found = []
    for _ in range(steps):
        found.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return found


def test_warm_up_is_linear_and_the_cosine_ends_at_one_floor_for_all_groups():
    found = rates(200, max_steps=100, warmup_steps=10, warmup_start=0.1, min_lr=0.01)
    assert found[0] == pytest.approx([0.1, 0.01])
    assert found[5] == pytest.approx([0.55, 0.055])
    assert found[10] == pytest.approx([1.0, 0.1])
    assert found[60] == pytest.approx([0.505, 0.055])  # half of the period
    assert found[110] == found[199] == pytest.approx([0.01, 0.01])


def test_the_period_is_that_of_all_steps_although_it_starts_after_the_warm_up():
    last = rates(101, max_steps=100, warmup_steps=20)[100][0]
    assert last == pytest.approx((1 + math.cos(math.pi * 0.8)) / 2)
