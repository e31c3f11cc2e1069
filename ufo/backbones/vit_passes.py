"""What one layer of a UFO-ViT computes for each stream (paper section 3.4): what `compile=true` compiles.

Partition into windows, sampling at queries and the rows of answers stay outside: their sizes are products and
quotients of lengths, which a compiler would have to prove equal.
Shapes: `W` windows in the batch, `N` patches of a window, `n` prompt tokens, `S` queries of a window, `M`
packed answer tokens, `h` heads, `d` of a head, `C` width.
"""

from __future__ import annotations

from torch import Tensor

from ufo.backbones.attention import attend, image_attention, query_attention
from ufo.backbones.layer_pass import lengths
from ufo.backbones.vit_layers import Layer

Stream = tuple[Tensor, Tensor, Tensor]
"""A stream behind the layer, and the keys and values that others see of it."""


@lengths(x=(0, 1), mask=(0, 1))
def prompt_pass(layer: Layer, x: Tensor, mask: Tensor) -> Stream:
    """Prompt tokens `[B or 1, n, C]` that see each other where `mask [B or 1, n]` is True."""
    q, k, v = layer.heads_of(x)
    return layer.finish(x, attend(q, k, v, mask[:, None, None, :])), k, v


@lengths(tiles=(0,), keys=(0, 2), values=(0, 2), seen=(0, 1))
def image_pass(
    layer: Layer,
    tiles: Tensor,
    keys: Tensor,
    values: Tensor,
    seen: Tensor,
    rows: Tensor,
    columns: Tensor,
    size: tuple[int, int],
) -> Stream:
    """Windows of patches `[W, N, C]` that see themselves and the prompt's keys and values `[W, h, n, d]`."""
    q, k, v = layer.heads_of(tiles)
    attended = image_attention(q, k, v, size, (rows, columns), (keys, values, seen))
    return layer.finish(tiles, attended), k, v


@lengths(x=(0, 1), image_k=(0,), image_v=(0,))
def query_pass(layer: Layer, x: Tensor, image_k: Tensor, image_v: Tensor) -> Stream:
    """Queries `[W, S, C]` that see the patches of their window, `[W, h, N, d]`."""
    q, k, v = layer.heads_of(x)
    return layer.finish(x, query_attention(q, k, v, image_k, image_v)), k, v


@lengths(x=(0,))
def open_pass(layer: Layer, x: Tensor) -> Tensor:
    """Answer tokens `[M, C]` before their attention: queries, keys and values `[M, 3C]`."""
    return layer.qkv(layer.norm1(x))


@lengths(x=(0,), attended=(0,), rows=(0,))
def close_pass(layer: Layer, x: Tensor, attended: Tensor, rows: Tensor | None) -> Tensor:
    """Answer tokens `[M, C]` behind their attention; `rows [M]` are the answers that they belong to."""
    return layer.mlp(x + layer.proj(attended), rows)
