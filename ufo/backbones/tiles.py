"""Any-resolution images as square tiles that a vision tower reads one by one.

See docs/published_system.md#tiles.
Shapes: `B` images, `P` tiles of an image, `I` image tokens, `C` width, `t` pixels of a tile's side.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class Layout(NamedTuple):
    """Rows and columns of tiles, and of tokens in each tile."""

    rows: int
    cols: int
    height: int
    width: int

    @property
    def tokens(self) -> int:
        """`I`, the tokens of an image."""
        return self.rows * self.cols * self.height * self.width


@lru_cache(maxsize=256)
def tile_layout(height: int, width: int, tile: int, max_tiles: int) -> tuple[int, int]:
    """(Rows, columns) closest in shape to the image; of equal ones the largest that it still half fills."""
    layouts = [
        (rows, cols)
        for count in range(1, max_tiles + 1)
        for rows in range(1, count + 1)
        for cols in [count // rows]
        if rows * cols == count
    ]
    best, smallest = (1, 1), float("inf")
    for rows, cols in layouts:
        difference = abs(width / height - cols / rows)
        fills = width * height > 0.5 * tile * tile * rows * cols
        if difference < smallest or (difference == smallest and fills):
            best, smallest = (rows, cols), difference
    return best


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images `[B, 3, H, W]` of 0..255 in another size, float32, whole numbers still."""
    pixels = images.float()
    if tuple(pixels.shape[-2:]) == size:
        return pixels
    pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True, align_corners=False)
    return pixels.round().clamp(0, 255)


def cut_tiles(images: Tensor, tile: int, rows: int, cols: int) -> Tensor:
    """Images `[B, 3, H, W]` of 0..255 as tiles, row by row: float32 `[B*P, 3, t, t]`."""
    pixels = resize(images, (rows * tile, cols * tile))
    pixels = pixels.unflatten(2, (rows, tile)).unflatten(4, (cols, tile))  # [B, 3, r, t, c, t]
    return pixels.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


def mosaic(tokens: Tensor, layout: Layout) -> Tensor:
    """The tokens of all tiles, tile by tile `[B, I, C]`, side by side: `[B, H, W, C]`."""
    x = tokens.unflatten(1, tuple(layout))  # [B, r, c, y, x, C]
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)
