"""Arguments of attention with relative positions, as a layer makes them, and gradients of what made them."""

from __future__ import annotations

import torch
from torch import Tensor

from ufo.backbones.attention import key_columns, relative_rows


def arguments(windows, heads, size, width, tokens, dtype=torch.float32, shared=False):
    """What trains, and the arguments made of it, as a layer makes them: heads are views of one product."""
    patches, count = size[0] * size[1], 1 if shared else windows
    qkv = torch.randn(windows, patches, 3 * heads * width).to(dtype)
    text = torch.randn(2, count, heads, tokens, width).to(dtype)
    tables = [torch.randn(2 * side - 1, width).to(dtype) for side in size]
    leaves = [x.requires_grad_() for x in (qkv, text, *tables)]
    return leaves, given(leaves, heads, size, torch.rand(count, tokens) > 0.4)


def given(leaves, heads, size, mask) -> tuple:
    qkv, text, *tables = leaves
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    rows = tuple(relative_rows(t, side) for t, side in zip(tables, size, strict=True))
    shown = tuple(x.expand(len(q), *x.shape[1:]) for x in text.unbind(0))
    return q, k, v, size, rows, shown, key_columns(mask, size, q.shape[-1], q.dtype)


def with_gradients(attention, leaves, arguments, gradient) -> list[Tensor]:
    out = attention(*arguments)
    return [out, *torch.autograd.grad(out, leaves, gradient, retain_graph=True)]
