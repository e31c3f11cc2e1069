"""Mask logits at the size of an image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
