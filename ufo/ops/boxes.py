"""Boxes as integers of an answer and back (docs/published_system.md#boxes).

A box is written as the bins of (centre x, centre y, width, height) in units of the image; its
centre may be relative to the query's reference point. Shapes: `[..., 4]`, any leading dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_convert, clip_boxes_to_image

CENTRE_OFFSET = 0.5
"""Bin position (in units of the image) of a centre that lies exactly on its reference point."""


def encode_boxes(
    boxes: Tensor, size: tuple[int, int], num_bins: int, references: Tensor | None = None
) -> Tensor:
    """Quantise boxes.

    Args:
        boxes: `[..., 4]` xyxy pixels of an image of `size`.
        size: `(H, W)` of that image.
        num_bins: bins per image side; values are `0..num_bins` inclusive.
        references: `[..., 2]` normalised xy of the query that answers with each box; `None` writes
            absolute centres.

    Returns:
        int64 `[..., 4]`: bins of (cx, cy, w, h), clamped to `[0, num_bins]`.
    """
    values: Tensor = box_convert(boxes.float() / _extent(size, boxes.device), "xyxy", "cxcywh")
    if references is not None:
        values = values + _shift(references)
    return (values * num_bins).round().clamp(0, num_bins).long()


def decode_boxes(
    bins: Tensor, size: tuple[int, int], num_bins: int, references: Tensor | None = None
) -> Tensor:
    """Inverse of `encode_boxes`, up to half a bin per value.

    Boxes are fractions of the image, so `size` may be that of any version of it: give the original
    size to get original pixels.

    Args:
        bins: integer `[..., 4]`, bins of (cx, cy, w, h); values outside `[0, num_bins]` are legal.
        size: `(H, W)` of the image in whose pixels the boxes are wanted.
        num_bins: as in `encode_boxes`.
        references: as in `encode_boxes`.

    Returns:
        float32 `[..., 4]` xyxy pixels, clipped to the image.
    """
    values = bins.float() / num_bins
    if references is not None:
        values = values - _shift(references)
    boxes = box_convert(values, "cxcywh", "xyxy") * _extent(size, bins.device)
    clipped: Tensor = clip_boxes_to_image(boxes, size)
    return clipped


def _extent(size: tuple[int, int], device: torch.device) -> Tensor:
    height, width = size
    return torch.tensor([width, height, width, height], dtype=torch.float32, device=device)


def _shift(references: Tensor) -> Tensor:
    """What a reference adds to (cx, cy, w, h): `[..., 2]` -> `[..., 4]`; the extent is absolute."""
    offset = CENTRE_OFFSET - references.float()
    return torch.cat([offset, torch.zeros_like(offset)], dim=-1)
