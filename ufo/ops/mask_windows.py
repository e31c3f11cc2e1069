"""Masks on a CPU: pixels are computed only where they may be inside, a few masks at a time.

Bilinear values lie between their four neighbours, so pixels without a neighbour above the threshold stay
empty. A value so close to the threshold that the order of rounding decides sends its mask through the whole
resize: the pixels are those of `ufo.ops.masks.binarise.plain`. Shapes: N masks, `h w` patches, `H W` pixels.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ufo.ops.extents import any_along, first_and_last
from ufo.ops.resize import resize_mask_logits

_WORD = 8  # bytes
_MASKS_AT_ONCE = 4  # resized windows at a time: they stay in the cache
_ROUNDING = 1e-6  # a dozen roundings of float32, relative


def strided_planes(planes: Tensor, side: int) -> Tensor:
    """For pixel shuffling, in a quarter of its time: reads along the rows, writes every s-th column."""
    tiled = planes.unflatten(-3, (side, side))  # [..., a, b, h, w]
    height, width = planes.shape[-2:]
    out = planes.new_empty(*planes.shape[:-3], height, side, width, side)
    for b in range(side):
        out[..., b] = tiled[..., b, :, :].transpose(-3, -2)
    return out.flatten(-2).flatten(-3, -2)


def binarise_windows(logits: Tensor, size: tuple[int, int], threshold: float = 0.5) -> tuple[Tensor, Tensor]:
    """For `ufo.ops.masks.binarise`; columns lie together in memory, as COCO's RLE reads them."""
    logits = logits.float()
    count, padded = len(logits), -(-size[0] // _WORD) * _WORD
    columns = torch.zeros(count, size[1], padded, dtype=torch.bool, device=logits.device)
    words = columns.view(torch.int64)  # writing eight pixels at a time
    quality = logits.new_zeros(count)
    rows, cols = (_Taps.of(n, out, logits) for n, out in zip(logits.shape[1:], size, strict=True))
    level = math.log(threshold / (1 - threshold))
    # a value a rounding above the level still has a neighbour above this
    positive = logits > level - _ROUNDING * (1 + abs(level))  # [N, h, w]
    y, x = (
        rows.reached(any_along(positive, 2)),
        cols.reached(any_along(positive, 1)),
    )  # first and last + 1, 2 x [N]
    top = y[0] // _WORD
    height, width = -(-y[1] // _WORD) - top, x[1] - x[0]  # height in words
    found = ((height > 0) & (width > 0)).nonzero()[:, 0]
    if not len(found):
        return columns[:, :, : size[0]].mT, quality
    near = _ROUNDING * (1 + logits.abs().amax())
    doubtful = []
    for part in found[(height * width)[found].argsort()].split(_MASKS_AT_ONCE):
        # windows of one size that cover each of these masks, moved inside the image
        word = _window(top[part], int(height[part].max()), padded // _WORD)  # [n, H' / 8]
        xs = _window(x[0][part], int(width[part].max()), size[1])  # [n, W']
        ys = (_WORD * word[..., None] + torch.arange(_WORD, device=word.device)).flatten(1)  # [n, H']
        coarse = logits[part]
        values = cols.mix(rows.mix(coarse, ys.clamp(max=size[0] - 1)).mT.contiguous(), xs)  # [n, W', H']
        inside = values > level
        if padded > size[0]:
            inside &= (ys < size[0])[:, None]
        unsure = ((values - level).abs_() < near).nonzero()  # few pixels
        doubtful.append(part[_undecided(coarse, unsure, (rows, ys), (cols, xs), threshold)])
        words[part[:, None, None], xs[:, :, None], word[:, None]] = inside.view(torch.int64)
        area = inside.view(torch.uint8).flatten(1).sum(1)
        quality[part] = values.sigmoid_().mul_(inside).flatten(1).sum(1) / area.clamp(min=1)
    for part in torch.cat(doubtful).split(_MASKS_AT_ONCE):
        probability = resize_mask_logits(logits[part], size).sigmoid()
        inside = probability > threshold
        columns[part, :, : size[0]] = inside.mT
        area = inside.flatten(1).sum(1)
        quality[part] = (probability * inside).flatten(1).sum(1) / area.clamp(min=1)
    return columns[:, :, : size[0]].mT, quality


def _window(first: Tensor, length: int, size: int) -> Tensor:
    """`length` places from `first [M]` on, or earlier where `size` ends: `[M, length]`."""
    first = first.clamp(max=size - length)
    return first[:, None] + torch.arange(length, device=first.device)


@dataclass
class _Taps:
    """How one axis of `n` values becomes `N`: each new value is a mix of two old ones."""

    low: Tensor  # int64 [N], not descending
    high: Tensor  # int64 [N]
    weight: Tensor  # float32 [N], of the higher one
    count: int  # n

    @classmethod
    def of(cls, count: int, size: int, like: Tensor) -> _Taps:
        """Read off what the resize kernel itself does to unit vectors."""
        unit = torch.eye(count, device=like.device)[None, None]
        matrix = F.interpolate(unit, (size, count), mode="bilinear", align_corners=False)[0, 0]  # [N, n]
        used = (matrix > 0).int()
        low, high = used.argmax(1), count - 1 - used.flip(1).argmax(1)
        weight = torch.where(high > low, matrix.gather(1, high[:, None])[:, 0], 0.0)
        return cls(low, high, weight, count)

    def reached(self, marked: Tensor) -> tuple[Tensor, Tensor]:
        """First and last + 1 new value that a marked old one has a part in; marked bool `[M, n]`."""
        first, last = first_and_last(marked)
        return torch.searchsorted(self.high, first), torch.searchsorted(self.low, last, right=True)

    def mix(self, x: Tensor, at: Tensor) -> Tensor:
        """New values `at [M, L]` of the middle axis of `x [M, n, C]`: `[M, L, C]`."""
        flat = x.reshape(-1, x.shape[-1])
        base = torch.arange(0, len(flat), self.count, device=x.device)[:, None]
        low, high = (flat.index_select(0, (base + i[at]).flatten()) for i in (self.low, self.high))
        weight = self.weight[at].view(-1, 1)
        return low.mul_(1 - weight).addcmul_(high, weight).view(*at.shape, -1)


def _undecided(
    logits: Tensor,
    unsure: Tensor,
    rows: tuple[_Taps, Tensor],
    cols: tuple[_Taps, Tensor],
    threshold: float,
) -> Tensor:
    """Which masks have a pixel, of the `unsure` ones `[P, 3]` (mask, column, row), that rounding may flip.

    `rows` and `cols` are the taps of an axis and which of its values each mask has at its places. What
    counts is the size of a pixel's four neighbours, and how finely the sigmoid tells values apart.
    """
    at, x, y = unsure.unbind(1)
    (row_taps, ys), (col_taps, xs) = rows, cols
    y, x = ys[at, y], xs[at, x]
    inside = y < len(row_taps.low)
    at, x, y = at[inside], x[inside], y[inside]
    above_below, left_right = (row_taps.low, row_taps.high), (col_taps.low, col_taps.high)
    corners = [logits[at, i[y], j[x]] for i in above_below for j in left_right]
    largest = torch.stack(corners).abs().amax(0)  # [P]
    vertical = (1 - row_taps.weight[y], row_taps.weight[y])
    horizontal = (1 - col_taps.weight[x], col_taps.weight[x])
    value = torch.zeros_like(largest)
    for corner, (down, right) in zip(corners, itertools.product(vertical, horizontal), strict=True):
        value = value + corner * down * right
    level = math.log(threshold / (1 - threshold))
    fine = _ROUNDING / (4 * threshold * (1 - threshold)) + _ROUNDING * largest
    undecided: Tensor = at[(value - level).abs() <= fine].unique()
    return undecided
