"""Attention with SAM's decomposed relative positions as plain fused attention.

See docs/published_system.md#vit-network.
bias[(y,x),(y',x')] = q·Rh[y-y'] + q·Rw[x-x'] is itself a dot product: append (q·Rh)[y'] and (q·Rw)[x'] to the
query and one-hot (y', x') to the key: no [N, N] bias is built, at the price of wider keys.
Shapes: `W` windows in the batch, `h` heads, `d` head width, `N` patches of a window, `n` prompt tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ufo.backbones.cpu_attention import HIDDEN, biased_pieces, explicit_products
from ufo.ops.constants import remembered
from ufo.ops.faster import faster


@faster(explicit_products, on_cpu=True, gradients=True)
def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    """softmax(scale·q·k)·v: q `[..., N, d]`, k `[..., M, d]`, v `[..., M, e]`; mask bool, True = visible.

    `e` may be smaller than `d`. Returns `[..., N, e]`.
    """
    width = v.shape[-1]
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    # the fused kernels want one width for queries, keys and values
    if width < q.shape[-1]:
        v = F.pad(v, (0, q.shape[-1] - width))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)[..., :width]


def relative_rows(table: Tensor, size: int) -> Tensor:
    """Rows of a relative-position table for all pairs of positions: `[2·S-1, d]` -> `[size, size, d]`."""
    return table_rows(resize_table(table, size), _distances(size, table.device))


@remembered(maxsize=64)
def _distances(size: int, device: torch.device) -> Tensor:
    """Rows of a relative-position table of all pairs of positions: int64 `[size, size]`."""
    position = torch.arange(size, device=device)
    return position[:, None] - position[None, :] + size - 1


def resize_table(table: Tensor, size: int) -> Tensor:
    """A relative-position table for `size` positions, `[2·size-1, d]`: resized linearly, as SAM does."""
    if table.shape[0] == 2 * size - 1:
        return table
    resized = F.interpolate(table.T[None].float(), size=2 * size - 1, mode="linear")
    return resized[0].T.to(table.dtype)


def table_rows(table: Tensor, index: Tensor) -> Tensor:
    """Rows of a table `[V, C]` where `index` may name one several times: `[..., C]`.

    The gradient of `table[index]` is added up by several CPU threads at once, in an order that differs from
    run to run and with it the last bits of the sums. That of an embedding is not.
    """
    return F.embedding(index, table)


@remembered(maxsize=32)  # 1.4 MB for 70 x 70 patches
def _position_keys(size: tuple[int, int], fill: int, kind: torch.dtype, device: torch.device) -> Tensor:
    """What keys of patches are extended by: 0, one-hot row and column, `fill` zeros: `[H*W, 1+H+W+fill]`."""
    height, width = size
    eye_y = torch.eye(height, device=device, dtype=kind).repeat_interleave(width, 0)
    eye_x = torch.eye(width, device=device, dtype=kind).repeat(height, 1)
    return F.pad(torch.cat([eye_y, eye_x], dim=-1), (1, fill))


def relative_bias(q: Tensor, size: tuple[int, int], tables: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """What each query adds to every row and to every column of patches: `[W, h, N, H]`, `[W, h, N, W]`."""
    grid = q.unflatten(2, size)  # [W, h, H, W, d]
    by_row = torch.einsum("bhyxd,ykd->bhyxk", grid, relative_rows(tables[0], size[0]))
    by_col = torch.einsum("bhyxd,xkd->bhyxk", grid, relative_rows(tables[1], size[1]))
    return by_row.flatten(2, 3), by_col.flatten(2, 3)


def image_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    size: tuple[int, int],
    tables: tuple[Tensor, Tensor] | None,
    prompt: tuple[Tensor, Tensor, Tensor],
) -> Tensor:
    """Patches attend to the prompt and to the patches of their window.

    q, k, v `[W, h, N, d]` with N = size[0]*size[1]; `tables` are the two relative-position tables or None;
    `prompt` = keys and values `[W, h, n, d]` and the mask `[W, n]` (True = visible). Returns `[W, h, N, d]`.
    """
    bias = None if tables is None else relative_bias(q, size, tables)
    return _augmented(q, k, v, size, bias, prompt)


@faster(biased_pieces, on_cpu=True, gradients=False)
def _augmented(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    size: tuple[int, int],
    bias: tuple[Tensor, Tensor] | None,
    prompt: tuple[Tensor, Tensor, Tensor],
) -> Tensor:
    """The bias as further columns of queries and keys; `bias` is what each query adds to rows and columns."""
    prompt_k, prompt_v, prompt_mask = prompt
    scale = q.shape[-1] ** -0.5
    extra_q = [q.new_ones(*q.shape[:3], 1), *(bias or ())]  # the first one meets the prompt mask
    fill = -(q.shape[-1] + sum(e.shape[-1] for e in extra_q)) % 8  # fused kernels: multiples of 8
    extra_q += [q.new_zeros(*q.shape[:3], fill)]
    if bias is None:
        image_extra = k.new_zeros(k.shape[2], 1 + fill)
    else:
        image_extra = _position_keys(size, fill, k.dtype, k.device)
    image_extra = image_extra.expand(*k.shape[:3], -1)
    hidden = torch.where(prompt_mask, 0.0, HIDDEN).to(k.dtype)[:, None, :, None]  # [W, 1, n, 1]
    text_extra = F.pad(hidden, (0, image_extra.shape[-1] - 1)).expand(-1, k.shape[1], -1, -1)

    queries = torch.cat([q * scale, *extra_q], dim=-1)
    keys = torch.cat(
        [torch.cat([prompt_k, text_extra], -1), torch.cat([k, image_extra], -1)], dim=2
    )  # [W, h, n+N, d+1+H+W, filled up]
    values = torch.cat([prompt_v, v], dim=2)
    return attend(queries, keys, values, scale=1.0)


@remembered(maxsize=32)
def _query_mask(queries: int, patches: int, device: torch.device) -> Tensor:
    """What queries see: all patches and themselves, bool `[S, N+S]`."""
    own = torch.eye(queries, dtype=torch.bool, device=device)
    return F.pad(own, (patches, 0), value=True)


def query_attention(q: Tensor, k: Tensor, v: Tensor, image_k: Tensor, image_v: Tensor) -> Tensor:
    """Queries attend to the patches of their window and to themselves, not to each other.

    q, k, v `[W, h, S, d]` of the queries; image_k, image_v `[W, h, N, d]`. Returns `[W, h, S, d]`.
    """
    mask = _query_mask(q.shape[2], image_k.shape[2], q.device)
    keys, values = torch.cat([image_k, k], 2), torch.cat([image_v, v], 2)
    return attend(q, keys, values, mask)


def answer_mask(new: int, total: int, device: torch.device) -> Tensor | None:
    """What the newest `new` of `total` keys may see, bool `[new, total]`: nothing later; None: everything."""
    return None if new == 1 else _causal_mask(new, total, device)


@remembered(maxsize=64)
def _causal_mask(new: int, total: int, device: torch.device) -> Tensor:
    return torch.ones(new, total, dtype=torch.bool, device=device).tril(diagonal=total - new)
