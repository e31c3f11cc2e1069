"""Parts of a UFO-ViT: attention by its definition, stochastic depth."""

from __future__ import annotations

from itertools import pairwise
from unittest.mock import patch

import pytest
import torch
from test_ufo_vit import answers, pictures, prompt, same

from ufo.backbones.attention import attend, hiding, image_attention, key_columns, relative_rows
from ufo.backbones.vit_layers import drop_path
from ufo.ops.grid import query_grid


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_image_attention_equals_its_definition():
    """softmax(q·k / sqrt(d) + q·Rh[y-y'] + q·Rw[x-x']) over patches, no bias over the prompt."""
    windows, heads, height, width, d, n = 2, 2, 3, 4, 8, 5
    q, k, v = torch.randn(3, windows, heads, height * width, d, dtype=torch.float64)
    table_h, table_w = (torch.randn(2 * s - 1, d).double() for s in (height, width))
    prompt_k, prompt_v = torch.randn(2, windows, heads, n, d, dtype=torch.float64)
    visible = torch.tensor([[True] * n, [True] * 3 + [False] * 2])
    bias = torch.zeros(windows, heads, height * width, height * width).double()
    for i in range(height * width):
        for j in range(height * width):
            (y, x), (there_y, there_x) = divmod(i, width), divmod(j, width)
            both = table_h[y - there_y + height - 1] + table_w[x - there_x + width - 1]
            bias[:, :, i, j] = q[:, :, i] @ both
    logits = torch.cat([q @ prompt_k.mT, q @ k.mT], -1) / d**0.5
    logits[..., n:] += bias
    hidden = ~visible[:, None, None].expand(-1, heads, height * width, -1)
    logits[..., :n] = logits[..., :n].masked_fill(hidden, -torch.inf)
    expected = logits.softmax(-1) @ torch.cat([prompt_v, v], 2)
    size = (height, width)
    rows = (relative_rows(table_h, height), relative_rows(table_w, width))
    columns = key_columns(visible, size, d, q.dtype)
    arguments = (q, k, v, size, rows, (prompt_k, prompt_v), columns)
    same(image_attention(*arguments), expected, 1e-7)  # with gradients: the bias inside the products
    for piece in (1 << 20, 1000, 400, 100, 1):  # without: all at once, ... windows, heads, queries
        with torch.no_grad(), patch("ufo.backbones.cpu_attention._PIECE", piece):
            same(image_attention(*arguments), expected, 1e-7)


def test_both_ways_to_attend_are_equal():
    q, k = torch.randn(2, 3, 2, 6, 8)
    v = torch.randn(3, 2, 6, 4)  # narrower than the keys
    mask = torch.ones(6, 6, dtype=torch.bool).tril()
    explicit = attend(q, k, v, mask, scale=0.7)
    with torch.no_grad():
        same(attend(q, k, v, mask, scale=0.7), explicit)


def test_stochastic_depth_drops_whole_rows():
    kept = drop_path(torch.ones(1000, 4, 3), 0.25)
    assert kept.flatten(1).std(1).max() == 0  # a row stays or goes as a whole
    assert kept.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert 650 < kept[:, 0, 0].count_nonzero() < 850
    rows = torch.arange(300).repeat_interleave(5)
    packed = drop_path(torch.ones(1500, 3), 0.5, rows).view(300, 15)
    assert packed.std(1).max() == 0
    assert 0 < packed[:, 0].count_nonzero() < 300


def test_stochastic_depth_of_packed_answers_follows_their_rows(make_backbone):
    """Tokens of one answer are dropped together, whatever rows are absent; nothing in `eval`."""
    backbone = make_backbone(drop_path_rate=0.6)
    assert all(a.drop < b.drop for a, b in pairwise(backbone.layers))
    context = backbone.encode(pictures(), *prompt(), query_grid(2, 2, 1))
    ids, packed = answers(8), torch.tensor([0, 1, 10, 11, 12, 39])  # of rows 0, 2 and 7
    expected = backbone.answer(context, ids, packed)
    assert torch.equal(backbone.answer(context, ids, packed), expected)
    with patch("ufo.backbones.vit_layers.drop_path", wraps=drop_path) as dropping:
        dropped = backbone.train().answer(context, ids, packed)
    assert dropped.isfinite().all() and not torch.equal(dropped, expected)
    together = torch.tensor([0, 0, 2, 2, 2, 7])[:, None].eq(torch.tensor([0, 0, 2, 2, 2, 7]))
    assert dropping.call_count == 3  # the global layer is skipped
    for call in dropping.call_args_list:
        rows = call.args[2]
        assert torch.equal(rows[:, None] == rows, together)


def test_what_is_hidden_is_added_to_scores():
    """The same as a mask of bools, in rows that begin where fused kernels want them."""
    q, k, v = torch.randn(3, 2, 2, 5, 8)
    visible = torch.ones(5, 5, dtype=torch.bool).tril()
    for kind in (torch.float32, torch.bfloat16):
        mask = hiding(visible, kind)
        assert mask.dtype == kind and mask.shape == (5, 5) and mask.stride() == (8, 1)
        for gradients in (True, False):
            with torch.set_grad_enabled(gradients):
                arguments = [x.to(kind) for x in (q, k, v)]
                assert torch.equal(attend(*arguments, mask), attend(*arguments, visible))


@torch.no_grad()
def test_queries_known_to_be_listed_by_window_are_not_sorted(make_backbone):
    backbone, grid = make_backbone(), query_grid(2, 2, 2)
    images, index = pictures(1), grid.windows.argsort(stable=True)
    known, unknown = (
        backbone.encode(images, *prompt(), grid.select(index, by_window=said)) for said in (True, False)
    )
    ids = answers(16)
    assert torch.equal(backbone.answer(known, ids), backbone.answer(unknown, ids))
