"""Streams of a training step share a layer's weights: the same numbers from fewer pieces of work."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from test_ufo_vit import answers, gradients, pictures, prompt
from torch import Tensor

from ufo.backbones.lora import LoRASettings, apply_lora
from ufo.backbones.shared_layers import SharedLayer, share
from ufo.backbones.ufo_vit import UFOViT
from ufo.ops.grid import Queries, query_grid
from ufo.ops.launches import Launches


def autocast() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


def step(backbone: UFOViT, queries: Queries | None, answering: bool = True) -> dict[str, Tensor]:
    """The gradients of one step, and what it gave."""
    torch.manual_seed(0)
    with autocast():
        context = backbone.encode(pictures(), *prompt(2), queries)
        out = context.image_features.square().sum()
        if answering:
            rows = context.num_rows
            out = out + backbone.answer(context, answers(rows), torch.arange(0, rows * 5, 2)).square().sum()
    out.backward()
    found = {"out": out.detach()} | gradients(backbone)
    backbone.zero_grad()
    return found


def unshared(layers, streams):
    return [layers] * streams


@pytest.mark.parametrize("answering", [True, False], ids=["answers", "encoder"])
@pytest.mark.parametrize("queries", [None, query_grid(2, 2, 1)], ids=["single", "dense"])
def test_gradients_are_the_same_to_the_last_bit(make_backbone, queries, answering):
    """Also where a stream leaves layers or weights out: sums have the same order."""
    backbone = make_backbone(drop_path_rate=0.3).train()
    found = step(backbone, queries, answering)
    with patch("ufo.backbones.ufo_vit.share", unshared):
        expected = step(backbone, queries, answering)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_weights_are_cast_at_once_and_gradients_too(make_backbone):
    backbone = make_backbone().train()
    layers = len(backbone.layers)
    with autocast(), Launches() as launches:
        shared = share(backbone._layers, 3)
    assert launches.by_name == {"_foreach_copy_": layers}
    with Launches() as launches:
        sum(layer.qkv(torch.ones(1, 16).bfloat16()).sum() for own in shared for layer in own).backward()
    for name in ("_foreach_add", "_foreach_add_", "_foreach_copy_"):  # the second stream, the third, and back
        assert launches.by_name[name] == layers


def shares(backbone: UFOViT) -> bool:
    return all(isinstance(layer, SharedLayer) for own in backbone._layers_of_streams() for layer in own)


def test_who_shares(make_backbone):
    """Not where nothing is cast or casts are not to be kept, nor where a layer is more than its weights."""
    compiled, adapted = make_backbone().train(), make_backbone()
    compiled.compiles = True
    apply_lora(adapted, LoRASettings(r=2, alpha=4, targets=r"layers\.\d+\.qkv"))
    assert not shares(make_backbone().train())
    with autocast():
        assert shares(make_backbone().train())
        assert not shares(make_backbone())
        assert not shares(make_backbone(gradient_checkpointing=True).train())
        assert not shares(compiled) and not shares(adapted.train())
        with torch.no_grad():
            assert not shares(make_backbone().train())
