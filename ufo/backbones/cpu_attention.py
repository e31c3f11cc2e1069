"""Attention on a CPU: explicit products in training, a bias built piece by piece in prediction.

Shapes: `W` windows in the batch, `h` heads, `d` head width, `N` patches of a window, `n` prompt tokens.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

HIDDEN = -1e4
"""Added to the logit of a masked prompt token; large enough in bf16, no inf in gradients."""
# up to this many scores per head, training on a CPU is faster with explicit products than with the fused
# kernel, whose backward is slow for small heads (bf16, 64 windows of 49 patches: 6 ms against 57 ms)
_SMALL = 256 * 512
# scores in one piece's bias (16 MB in float32): written and read again before it leaves the cache
_PIECE = 1 << 22


def explicit_products(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None
) -> Any:
    """For `ufo.backbones.attention.attend` with gradients and few scores."""
    if q.shape[-2] * k.shape[-2] > _SMALL:
        return NotImplemented
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    # without autocast: like the fused kernels, keep probabilities in the type of the keys
    with torch.autocast("cpu", enabled=False):
        scores = (q * scale) @ k.transpose(-1, -2)
        if mask is not None and mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        elif mask is not None:
            scores = scores + mask
        return scores.softmax(-1) @ v


def biased_pieces(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    size: tuple[int, int],
    bias: tuple[Tensor, Tensor],
    prompt: tuple[Tensor, Tensor],
    columns: Tensor,
) -> Tensor:
    """For patches that attend with a bias, without gradients: some windows, heads and queries at a time.

    Global attention at 1120 px (4900 patches, d = 64): the augmented width 208 costs three times the products
    and a bias a pass over `[h, N, N]`, 0.6 GB per layer in bf16. A GPU has the products to spare rather than
    the memory, and gradients would need the whole bias.
    """
    by_row, by_col = (b.flatten(2, 3) for b in bias)
    prompt_k, prompt_v = prompt
    windows, heads, patches, _ = q.shape
    total = patches + prompt_k.shape[2]
    hidden = columns[:, :, None, : prompt_k.shape[2], sum(size)].expand(windows, -1, -1, -1)  # [W, 1, 1, n]
    # whole windows if they fit, else heads of one window, else some queries of one head
    queries = min(patches, max(_PIECE // total, 1))
    some_heads = min(heads, max(_PIECE // (queries * total), 1))
    some_windows = min(windows, max(_PIECE // (heads * patches * total), 1))
    piece = by_row.new_empty(some_windows, some_heads, queries, total)
    out = torch.empty_like(v)
    for w in _slices(windows, some_windows):
        for h in _slices(heads, some_heads):
            keys = torch.cat([k[w, h], prompt_k[w, h]], 2)
            values = torch.cat([v[w, h], prompt_v[w, h]], 2)
            for n in _slices(patches, queries):
                part = q[w, h, n]
                here = piece[: part.shape[0], : part.shape[1], : part.shape[2]]
                grid = here[..., :patches].unflatten(-1, size)
                torch.add(by_row[w, h, n, :, None], by_col[w, h, n, None], out=grid)
                here[..., patches:] = hidden[w]
                out[w, h, n] = F.scaled_dot_product_attention(part, keys, values, attn_mask=here)
    return out


def _slices(length: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]
