"""What one layer of a UFO-ViT computes for each stream (paper section 3.4): what `compile=true` compiles.

A prompt passes a layer at once. Of patches, queries and answers all tokens pass its linear maps as one matrix
(`open_pass`, `close_pass`), in between each stream has its own attention.
Partition into windows, sampling at queries and the rows of answers stay outside: their sizes are products and
quotients of lengths, which a compiler would have to prove equal.
Shapes: `W` windows in the batch, `N` patches of a window, `n` prompt tokens, `S` queries of a window, `M`
tokens of a stream or two, `h` heads, `d` of a head, `C` width.
"""

from __future__ import annotations

from torch import Tensor

from ufo.backbones.attention import attend, query_attention
from ufo.backbones.layer_pass import lengths
from ufo.backbones.vit_layers import Layer, joined

Stream = tuple[Tensor, Tensor, Tensor]
"""A stream behind the layer or its attention, and the keys and values that others see of it."""


@lengths(x=(0, 1), mask=(0, 3))
def prompt_pass(layer: Layer, x: Tensor, mask: Tensor) -> Stream:
    """Prompt tokens `[B or 1, n, C]` that see each other, unless `mask [B or 1, 1, 1, n]` hides them."""
    q, k, v = layer.heads_of(x)
    return layer.finish(x, attend(q, k, v, mask)), k, v


@lengths(x=(0,))
def open_pass(layer: Layer, x: Tensor) -> Tensor:
    """Tokens `[M, C]` before their attention: queries, keys and values `[M, 3C]`."""
    return layer.qkv(layer.norm1(x))


@lengths(qkv=(0,), keys=(0, 2), values=(0, 2), hiding=(0, 2))
def image_pass(
    layer: Layer,
    qkv: Tensor,
    keys: Tensor,
    values: Tensor,
    hiding: Tensor,
    rows: Tensor,
    columns: Tensor,
    size: tuple[int, int],
) -> Stream:
    """Windows of patches, given by `qkv [W, N, 3C]`, see themselves and the prompt's `[W, h, n, d]`.

    `hiding` are `key_columns`, `rows` and `columns` the `relative_rows` of both tables. Gives `[W, N, C]`.
    """
    q, k, v = layer.split(qkv)
    attended = layer.image_attention(q, k, v, size, (rows, columns), (keys, values), hiding)
    return joined(attended), k, v


@lengths(qkv=(0, 1), image_k=(0,), image_v=(0,))
def query_pass(layer: Layer, qkv: Tensor, image_k: Tensor, image_v: Tensor) -> Tensor:
    """Queries, given by `qkv [W, S, 3C]`, see the patches of their window, `[W, h, N, d]`: `[W, S, C]`."""
    return joined(query_attention(*layer.split(qkv), image_k, image_v))


@lengths(x=(0,), attended=(0,), rows=(0,))
def close_pass(layer: Layer, x: Tensor, attended: Tensor, rows: Tensor | None) -> Tensor:
    """Tokens `[M, C]` behind their attention; `rows [M]`: those of one row are dropped together."""
    return layer.mlp(x + layer.proj(attended), rows)
