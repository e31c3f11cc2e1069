"""Attention with SAM's decomposed relative positions as plain fused attention.

See docs/published_system.md#vit-network.
bias[(y,x),(y',x')] = q·Rh[y-y'] + q·Rw[x-x'] is itself a dot product: append (q·Rh)[y'] and (q·Rw)[x'] to the
query and one-hot (y', x') to the key: no [N, N] bias is built, at the price of wider keys.
Shapes: `W` windows in the batch, `h` heads, `d` head width, `N` patches of a window, `n` prompt tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ufo.backbones.cpu_attention import HIDDEN, biased_pieces, explicit_products
from ufo.ops.autocast import product_type
from ufo.ops.constants import constant, remembered
from ufo.ops.faster import faster


@faster(explicit_products, on_cpu=True, gradients=True)
def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    """softmax(scale·q·k)·v: q `[..., N, d]`, k `[..., M, d]`, v `[..., M, e]`; mask bool, or of `hiding`.

    `e` may be smaller than `d`. Returns `[..., N, e]`.
    """
    width = v.shape[-1]
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    # the fused kernels want one width for queries, keys and values
    if width < q.shape[-1]:
        v = F.pad(v, (0, q.shape[-1] - width))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)[..., :width]


def hiding(visible: Tensor, kind: torch.dtype) -> Tensor:
    """What to add to scores of that type: nothing where `visible [..., M]` is True, else all it can take.

    Made once for many layers: of a mask of bools every attention would make one of these, in four pieces.
    Rows begin at multiples of 8 values, as fused kernels want them.
    """
    count = visible.shape[-1]
    padded = F.pad(visible, (0, 8 - count % 8))  # never 0: the one case would be another graph to export
    return torch.zeros_like(padded, dtype=kind).masked_fill(~padded, torch.finfo(kind).min)[..., :count]


def relative_rows(table: Tensor, size: int) -> Tensor:
    """Rows of a relative-position table for all pairs of positions: `[2·S-1, d]` -> `[size, size, d]`."""
    return relative_rows_of([table], size)[0]


def relative_rows_of(tables: Sequence[Tensor], size: int) -> tuple[Tensor, ...]:
    """`relative_rows` of the tables of several layers at once, in the type that products have."""
    table = resize_table(torch.stack(list(tables)), size)  # [L, 2·size-1, d]
    rows = table_rows(table.flatten(0, 1), _distances(len(table), size, table.device))
    return rows.to(product_type(rows)).unbind(0)


@remembered(maxsize=64)
def _distances(tables: int, size: int, device: torch.device) -> Tensor:
    """Rows for all pairs of positions, of tables that stand below each other: int64 `[L, size, size]`."""
    position = torch.arange(size, device=device)
    first = torch.arange(tables, device=device)[:, None, None] * (2 * size - 1)
    return first + position[:, None] - position[None, :] + size - 1


def resize_table(table: Tensor, size: int) -> Tensor:
    """Relative-position tables for `size` positions, `[..., 2·size-1, d]`: resized linearly, as SAM does."""
    if table.shape[-2] == 2 * size - 1:
        return table
    whole = table if table.ndim == 3 else table[None]
    resized = F.interpolate(whole.mT.float(), size=2 * size - 1, mode="linear").mT
    return resized.reshape(*table.shape[:-2], *resized.shape[1:]).to(table.dtype)


def table_rows(table: Tensor, index: Tensor) -> Tensor:
    """Rows of a table `[V, C]` where `index` may name one several times: `[..., C]`.

    The gradient of `table[index]` is added up by several CPU threads at once, in an order that differs from
    run to run and with it the last bits of the sums. That of an embedding is not.
    """
    return F.embedding(index, table)


def key_columns(visible: Tensor, size: tuple[int, int], width: int, kind: torch.dtype) -> Tensor:
    """What keys of width d are extended by: one-hot row and column of a patch, what hides a prompt token, 0.

    `visible [W, n]` is True at prompt tokens that may be seen. Returns `[W, 1, n+N, H+W+1, filled up]`, the
    same for all heads and for all layers with windows of this size.
    """
    positions, fill = sum(size), _fill(size, width)
    hidden = torch.where(visible, 0.0, HIDDEN).to(kind)
    text = F.pad(hidden[..., None], (positions, fill))
    patches = _position_keys(size, 1 + fill, kind, visible.device)
    return torch.cat([text, patches.expand(text.shape[0], -1, -1)], 1)[:, None]


def _fill(size: tuple[int, int], width: int) -> int:
    """Further columns: fused kernels want multiples of 8."""
    return -(width + sum(size) + 1) % 8


@remembered(maxsize=32)  # 1.4 MB for 70 x 70 patches
def _position_keys(size: tuple[int, int], more: int, kind: torch.dtype, device: torch.device) -> Tensor:
    """One-hot row and column of patches and `more` zeros: `[H*W, H+W+more]`."""
    height, width = size
    eye_y = torch.eye(height, device=device, dtype=kind).repeat_interleave(width, 0)
    eye_x = torch.eye(width, device=device, dtype=kind).repeat(height, 1)
    return F.pad(torch.cat([eye_y, eye_x], dim=-1), (0, more))


def relative_bias(q: Tensor, size: tuple[int, int], rows: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """What each query adds to rows and to columns of patches: `[W, h, H, W, H]` and `[W, h, H, W, W]`."""
    grid = q.unflatten(2, size)  # [W, h, H, W, d]
    by_row = torch.einsum("bhyxd,ykd->bhyxk", grid, rows[0])
    by_col = torch.einsum("bhyxd,xkd->bhyxk", grid, rows[1])
    return by_row, by_col


def image_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    size: tuple[int, int],
    rows: tuple[Tensor, Tensor],
    prompt: tuple[Tensor, Tensor],
    columns: Tensor,
) -> Tensor:
    """Patches attend to the prompt and to the patches of their window.

    q, k, v `[W, h, N, d]` with N = size[0]*size[1]; `rows` are the `relative_rows` of both tables; `prompt` =
    keys and values `[W, h, n, d]`; `columns` are the `key_columns` of all windows, or of one for all.
    Returns `[W, h, N, d]`.
    """
    return _augmented(q, k, v, size, relative_bias(q, size, rows), prompt, columns)


@faster(biased_pieces, on_cpu=True, gradients=False)
def _augmented(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    size: tuple[int, int],
    bias: tuple[Tensor, Tensor],
    prompt: tuple[Tensor, Tensor],
    columns: Tensor,
) -> Tensor:
    """The bias as further columns of queries and keys; `bias` is what each query adds to rows and columns."""
    width = q.shape[-1]
    ends = constant((1.0,) + (0.0,) * _fill(size, width), q.dtype, q.device)  # the 1 meets what hides tokens
    grid = q.unflatten(2, size) * width**-0.5
    queries = torch.cat([grid, *bias, ends.expand(*grid.shape[:-1], -1)], -1).flatten(2, 3)
    keys, values = (torch.cat(pair, 2) for pair in zip(prompt, (k, v), strict=True))  # [W, h, n+N, d]
    keys = torch.cat([keys, columns.expand(*keys.shape[:2], -1, -1)], -1)  # [W, h, n+N, d+H+W+1, filled up]
    return attend(queries, keys, values, scale=1.0)


@remembered(maxsize=32)
def _query_mask(queries: int, patches: int, kind: torch.dtype, device: torch.device) -> Tensor:
    """What queries see: all patches and themselves, as `hiding` says it: `[S, N+S]`."""
    own = torch.eye(queries, dtype=torch.bool, device=device)
    return hiding(F.pad(own, (patches, 0), value=True), kind)


def query_attention(q: Tensor, k: Tensor, v: Tensor, image_k: Tensor, image_v: Tensor) -> Tensor:
    """Queries attend to the patches of their window and to themselves, not to each other.

    q, k, v `[W, h, S, d]` of the queries; image_k, image_v `[W, h, N, d]`. Returns `[W, h, S, d]`.
    """
    mask = _query_mask(q.shape[2], image_k.shape[2], q.dtype, q.device)
    keys, values = torch.cat([image_k, k], 2), torch.cat([image_v, v], 2)
    return attend(q, keys, values, mask)


def answer_mask(new: int, total: int, kind: torch.dtype, device: torch.device) -> Tensor | None:
    """What the newest `new` of `total` keys may see, as `hiding` says it `[new, total]`: nothing later.

    None: everything.
    """
    return None if new == 1 else _causal_mask(new, total, kind, device)


@remembered(maxsize=64)
def _causal_mask(new: int, total: int, kind: torch.dtype, device: torch.device) -> Tensor:
    return hiding(torch.ones(new, total, dtype=torch.bool, device=device).tril(diagonal=total - new), kind)
