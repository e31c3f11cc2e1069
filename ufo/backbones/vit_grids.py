"""Grids of patches: a position table for another size, and the windows that layers attend in.

Images are `[B, H, W, C]`; their windows `[B * windows, h, w, C]`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ufo.ops.autocast import without_autocast
from ufo.ops.constants import remembered


def resize_position_grid(table: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Resize a position table `[1, H, W, C]` bicubically to another grid, as two products.

    The kernel of `F.interpolate` loops over the channels in one thread.
    """
    if tuple(table.shape[1:3]) == tuple(size):
        return table
    kind = torch.float64 if table.dtype == torch.float64 else torch.float32
    down, across = (_bicubic(n, m, table.device, kind) for n, m in zip(table.shape[1:3], size, strict=True))
    with without_autocast(table.device):
        columns = across @ table.to(kind)  # [1, H, W', C]
        resized = (down @ columns.flatten(2)).unflatten(2, columns.shape[2:])  # [1, H', W', C]
    return resized.to(table.dtype)


@remembered(maxsize=64)
def _bicubic(count: int, size: int, device: torch.device, kind: torch.dtype) -> Tensor:
    """What each of `size` new values has of `count` old ones, read off the kernel: `[size, count]`."""
    unit = torch.eye(count, dtype=kind, device=device)[None, None]
    return F.interpolate(unit, (size, count), mode="bicubic", align_corners=False)[0, 0]


def partition(x: Tensor, size: tuple[int, int]) -> Tensor:
    """`[B, H, W, ...]` -> windows of `size`: `[B*windows, N, ...]`, windows row-major."""
    x = x.unflatten(2, (-1, size[1])).unflatten(1, (-1, size[0]))  # [B, r, y, c, x, C]
    return x.transpose(2, 3).flatten(3, 4).flatten(0, 2)


def unpartition(x: Tensor, image: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """The inverse of `partition`: `[B*windows, N, ...]` -> `[B, H, W, ...]`."""
    rows, cols = image[0] // size[0], image[1] // size[1]
    x = x.unflatten(1, size).unflatten(0, (-1, rows, cols))  # [B, r, c, y, x, C]
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


@remembered(maxsize=32)
def window_numbers(
    batch: int, height: int, width: int, size: tuple[int, int], device: torch.device
) -> Tensor:
    """The window that each patch of some images is in, counted through the batch: int64 `[B*H*W]`."""
    patches = size[0] * size[1]
    numbers = torch.arange(batch * height * width // patches, device=device)
    return unpartition(numbers[:, None, None].expand(-1, patches, 1), (height, width), size).flatten()


def to_windows(x: Tensor, windows: int) -> Tensor:
    """Each row of `[B or 1, ...]` for all windows of its image, as a view where one row serves all."""
    if x.shape[0] == 1:
        return x.expand(windows, *x.shape[1:])
    return x.repeat_interleave(windows // x.shape[0], 0)


def gather_windows(x: Tensor, image: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Keys or values of all windows of an image side by side: `[B*windows, h, N, d]` -> `[B, h, H*W, d]`.

    Their order is that of the windows; attention does not mind.
    """
    windows = (image[0] // size[0]) * (image[1] // size[1])
    return x.unflatten(0, (-1, windows)).transpose(1, 2).flatten(2, 3)
