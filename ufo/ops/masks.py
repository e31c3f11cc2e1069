"""Masks: from K planes of logits to a picture, and to COCO RLE (arXiv 2503.01342; spec/vit.md 5).

Shapes: N masks, K = s*s mask tokens, `h w` patches, `H W` pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from torch import Tensor


def arrange_planes(planes: Tensor) -> Tensor:
    """Interleave the K planes of a mask: plane `s*a + b` fills sub-pixel (s*y + a, s*x + b).

    Args:
        planes: `[..., K, h, w]`, K a square number s*s (16 in the paper: s = 4).

    Returns:
        `[..., s*h, s*w]`.

    Raises:
        ValueError: K is not a square number.
    """
    num_planes = planes.shape[-3]
    side = round(num_planes**0.5)
    if side * side != num_planes:
        raise ValueError(f"{num_planes} mask tokens form no square; use 1, 4, 9, 16, ...")
    return F.pixel_shuffle(planes, side).squeeze(-3)


def resize_mask_logits(logits: Tensor, size: tuple[int, int], chunk: int = 64) -> Tensor:
    """Upsample *logits* (never probabilities: spec/traps.md 7) bilinearly, `align_corners=False`.

    Args:
        logits: `[N, h, w]`.
        size: `(H, W)`.
        chunk: masks per call of the resize kernel, which keeps it below CUDA's 2^31 elements.

    Returns:
        float32 `[N, H, W]`.
    """
    resized = [
        F.interpolate(part[:, None].float(), size, mode="bilinear", align_corners=False)[:, 0]
        for part in logits.split(chunk)
        if len(part)
    ]
    if not resized:
        return logits.new_zeros((0, *size), dtype=torch.float32)
    return resized[0] if len(resized) == 1 else torch.cat(resized)


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
    columns = masks.detach().to(torch.uint8).transpose(1, 2).contiguous().cpu().numpy()
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
