"""Masks: from K planes of logits to a picture, and to COCO RLE (paper section 3.2).

Shapes: N masks, K = s*s mask tokens, `h w` patches, `H W` pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from torch import Tensor

from ufo.ops.extents import any_along, first_and_last
from ufo.ops.faster import faster
from ufo.ops.mask_windows import binarise_windows, strided_planes
from ufo.ops.resize import resize_mask_logits
from ufo.ops.runs import encode_changes


def plane_side(number: int) -> int:
    """s of the s x s sub-pixels of a patch that `number` mask tokens fill, a plane each (paper section 3.2).

    Raises ValueError where it is not a square number.
    """
    side = math.isqrt(max(number, 0))
    if side < 1 or side * side != number:
        raise ValueError(f"{number} mask tokens form no square; use 1, 4, 9, 16, ...")
    return side


def arrange_planes(planes: Tensor) -> Tensor:
    """Interleave the K planes of a mask: plane `s*a + b` fills sub-pixel (s*y + a, s*x + b).

    Args:
        planes: `[..., K, h, w]`, K a square number s*s (16 in the paper: s = 4).

    Returns:
        `[..., s*h, s*w]`.

    Raises:
        ValueError: K is not a square number.
    """
    return _interleave(planes, plane_side(planes.shape[-3]))


@faster(strided_planes, on_cpu=True, gradients=False)
def _interleave(planes: Tensor, side: int) -> Tensor:
    return F.pixel_shuffle(planes, side).squeeze(-3)


@faster(binarise_windows, on_cpu=True)
def binarise(logits: Tensor, size: tuple[int, int], threshold: float = 0.5) -> tuple[Tensor, Tensor]:
    """Masks at the size of an image, and how sure they are.

    Args:
        logits: `[N, h, w]` without gradients.
        size: `(H, W)`.
        threshold: of the probability, between 0 and 1.

    Returns:
        Masks bool `[N, H, W]` and the mean probability of the pixels inside each, float32 `[N]`, 0 for an
        empty one.
    """
    return inside(resize_mask_logits(logits, size).sigmoid(), threshold)


def inside(probability: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Where probabilities `[N, H, W]` are above the threshold, and their mean there `[N]`, 0 if nowhere."""
    masks = probability > threshold
    area = masks.flatten(1).sum(1)
    return masks, (probability * masks).flatten(1).sum(1) / area.clamp(min=1)


def soft_iou(sure: Tensor) -> Tensor:
    """The IoU that masks promise, float32 `[N]`, given the mean probability inside each `[N]` (`inside`).

    Of a mask's area A the share `sure` is expected to be right. As many pixels are taken to be missing as are
    there wrongly, (1 - sure) A: what probabilities outside add up to is mostly the many pixels that are not.
    """
    return sure / (2 - sure)


def mask_boxes(masks: Tensor, whole_pixels: bool = True) -> Tensor:
    """The boxes around masks, without waiting for the device.

    Args:
        masks: bool or integer `[N, H, W]`, 0 is outside.
        whole_pixels: whether a box ends behind its last pixel, so that one pixel has an area of 1; otherwise
            its corners are the indices of its first and last pixel, as in torchvision's `masks_to_boxes`.

    Returns:
        float32 `[N, 4]` xyxy pixels; zeros for an empty mask.
    """
    masks = masks if masks.dtype in (torch.bool, torch.uint8) else masks != 0
    top, bottom = first_and_last(any_along(masks, 2))
    left, right = first_and_last(any_along(masks, 1))
    last = int(whole_pixels)
    boxes = torch.stack([left, top, right + last, bottom + last], 1).float()
    return boxes * (right >= left)[:, None]


def largest_parts(masks: Tensor, count: int) -> Tensor:
    """The `count` largest connected parts of each mask bool `[M, H, W]`; corners connect, too."""
    from scipy import ndimage  # few ask for it, and it costs every start .3 s

    kept = []
    for mask in masks.cpu().numpy():
        parts, number = ndimage.label(mask, structure=np.ones((3, 3)))
        if number > count:
            sizes = np.bincount(parts.ravel())[1:]
            mask = np.isin(parts, 1 + np.argsort(-sizes, kind="stable")[:count])
        kept.append(torch.from_numpy(mask))
    return torch.stack(kept).to(masks.device) if kept else masks


@faster(encode_changes, on_cpu=False)
def rle_encode(masks: Tensor) -> list[dict[str, Any]]:
    """COCO run-length encoding.

    Args:
        masks: bool or uint8 (0 or 1) `[N, H, W]`, any device.

    Returns:
        N dicts `{"size": [H, W], "counts": str}`, ready for JSON.
    """
    if len(masks) == 0:
        return []
    # COCO runs down the columns: [N, W, H] in C order is [H, W, N] in Fortran order, without a copy
    columns = masks.detach().to(torch.uint8).mT.contiguous().cpu().numpy()
    encoded = coco_mask.encode(columns.transpose(2, 1, 0))
    return [{"size": list(rle["size"]), "counts": rle["counts"].decode()} for rle in encoded]


def rle_decode(rles: Sequence[dict[str, Any]], size: tuple[int, int]) -> Tensor:
    """Inverse of `rle_encode`.

    Args:
        rles: N compressed COCO RLE dicts (`counts` str or bytes) of images of `size`.
        size: `(H, W)`; also says how large the answer is when N is 0.

    Returns:
        uint8 `[N, H, W]`, 0 or 1, on the CPU.

    Raises:
        ValueError: an RLE is of another size than `size`.
    """
    if not rles:
        return torch.zeros((0, *size), dtype=torch.uint8)
    wrong = next((rle["size"] for rle in rles if tuple(rle["size"]) != tuple(size)), None)
    if wrong is not None:
        raise ValueError(
            f"a mask is {tuple(wrong)} (height, width) but its image is {tuple(size)}; "
            "re-encode the mask at the size of its image"
        )
    decoded = coco_mask.decode(list(rles))  # [H, W, N], Fortran order
    return torch.from_numpy(np.ascontiguousarray(decoded.transpose(2, 0, 1)))
