"""Mask logits at the size of an image, and images that are not to be larger than is asked for."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2.functional import resize


def resize_mask_logits(logits: Tensor, size: tuple[int, int], chunk: int = 64) -> Tensor:
    """Upsample *logits* (never probabilities, which gives other edges) bilinearly, `align_corners=False`.

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


def bounded(pixels: Tensor, max_pixels: int | None) -> Tensor:
    """An image `[3, H, W]`, shrunken where it has more than `max_pixels`."""
    height, width = pixels.shape[-2:]
    factor = (max_pixels / (height * width)) ** 0.5 if max_pixels else 1
    if factor >= 1:
        return pixels
    shrunken: Tensor = resize(pixels, [max(1, int(height * factor)), max(1, int(width * factor))])
    return shrunken
