"""What makes the prefix fast changes nothing: what is remembered, position tables, the bias in pieces."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ufo.backbones import attention, cpu_attention
from ufo.backbones.ufo_vit import PROMPTS_KEPT, TABLES_KEPT, UFOViT
from ufo.backbones.vit_grids import resize_position_grid

IMAGES = torch.arange(3 * 24 * 24).view(1, 3, 24, 24).remainder(251).to(torch.uint8)


def features(backbone: UFOViT, ids: list[int]) -> Tensor:
    prompt = torch.tensor([ids])
    return backbone.encode(IMAGES, prompt, torch.ones_like(prompt, dtype=torch.bool)).image_features


@torch.no_grad()
def test_a_prompt_is_read_once(make_backbone):
    backbone = make_backbone()
    first = features(backbone, [2, 9, 7])
    with patch.object(backbone, "encode_prompt", side_effect=AssertionError("read again")):
        assert torch.equal(features(backbone, [2, 9, 7]), first)
    assert not torch.equal(features(backbone, [2, 7, 9]), first)
    for i in range(PROMPTS_KEPT + 3):
        features(backbone, [2, i])
    assert len(backbone._prompts) == PROMPTS_KEPT


@pytest.mark.parametrize("change", ["step", "load", "averaged", "training"])
def test_remembered_prompts_follow_the_weights(make_backbone, change):
    backbone, other = make_backbone(), make_backbone(seed=5)
    with torch.no_grad():
        before = features(backbone, [2, 9, 7])
        if change == "step":
            for mine, theirs in zip(backbone.parameters(), other.parameters(), strict=True):
                mine.copy_(theirs)
        elif change == "load":
            backbone.load_state_dict(other.state_dict())
        else:  # invisible to version counters
            for mine, theirs in zip(backbone.parameters(), other.parameters(), strict=True):
                mine.data.copy_(theirs.data)
    if change == "averaged":
        backbone.eval()
    elif change == "training":
        features(backbone, [2, 9, 7])  # with gradients
    with torch.no_grad():
        after, expected = features(backbone, [2, 9, 7]), features(other, [2, 9, 7])
    assert torch.equal(after, expected) and not torch.equal(after, before)


def test_a_remembered_prompt_is_not_part_of_a_graph(make_backbone):
    backbone = make_backbone()
    with torch.no_grad():
        features(backbone, [2, 9, 7])
    features(backbone, [2, 9, 7]).sum().backward()
    assert backbone.embedding.word.weight.grad.abs().max() > 0


@pytest.mark.parametrize("piece", [1, 60, 200, 700, 1 << 20])
@torch.no_grad()
def test_pieces_of_any_size_give_the_same(piece, monkeypatch):
    """One query, some queries, some heads, some windows, everything at once."""
    torch.manual_seed(0)
    windows, heads, size, d, n = 3, 2, (3, 4), 8, 5
    q, k, v = torch.randn(3, windows, heads, 12, d)
    rows = tuple(attention.relative_rows(torch.randn(2 * s - 1, d), s) for s in size)
    prompt_k, prompt_v = torch.randn(2, windows, heads, n, d)
    visible = torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [True] * 5])
    columns = attention.key_columns(visible, size, d, q.dtype)
    arguments = (q, k, v, size, rows, (prompt_k, prompt_v), columns)
    with torch.enable_grad():
        expected = attention.image_attention(*arguments)
    monkeypatch.setattr(cpu_attention, "_PIECE", piece)
    torch.testing.assert_close(attention.image_attention(*arguments), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(3, 3), (6, 6), (9, 4), (1, 2), (17, 20)])
def test_a_resized_position_table_is_the_bicubic_one(size):
    """Also under autocast; so is its gradient, which in float32 is a sum of hundreds."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(1, 6, 6, 8, generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        found = resize_position_grid(table, size)
    torch.testing.assert_close(found, bicubic(table, size), rtol=1e-6, atol=1e-6)
    exact = table.double().requires_grad_()
    weights = torch.randn(found.shape, generator=generator).double()
    ways = (resize_position_grid, bicubic)
    gradients = [torch.autograd.grad((way(exact, size) * weights).sum(), exact)[0] for way in ways]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def bicubic(table: Tensor, size: tuple[int, int]) -> Tensor:
    resized = F.interpolate(table.permute(0, 3, 1, 2), size, mode="bicubic", align_corners=False)
    return resized.permute(0, 2, 3, 1)


def test_a_table_made_in_inference_mode_can_be_trained_with():
    table = torch.randn(1, 5, 5, 2, requires_grad=True)
    with torch.inference_mode():
        resize_position_grid(table, (3, 4))
    resize_position_grid(table, (3, 4)).sum().backward()
    assert table.grad is not None


@torch.no_grad()
def test_a_position_table_is_resized_once(make_backbone):
    backbone = make_backbone()
    first = backbone._positions((4, 5))
    assert backbone._positions((4, 5)) is first
    for i in range(TABLES_KEPT + 3):
        backbone._positions((4, 6 + i))
    assert len(backbone._tables) == TABLES_KEPT
    backbone._positions((4, 5))
    backbone.pos_embed.mul_(2)
    torch.testing.assert_close(backbone._positions((4, 5)), 2 * first)
    backbone.eval()
    assert not backbone._tables
