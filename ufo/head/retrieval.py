"""Masks by embedding retrieval: mask tokens' hidden states find their pixels (paper section 3.2).

logit_k[y, x] = <e_k, f[y, x]> / sqrt(C); token k of K = s*s fills sub-pixel (s*y + k // s, s*x + k % s).
Shapes: `M` masks, `K` mask tokens, `C` width, `H W` patch grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ufo.ops.autocast import product_type
from ufo.ops.masks import arrange_planes


def retrieve_masks(embeddings: Tensor, features: Tensor, counts: Sequence[int]) -> Tensor:
    """Mask logits `[M, s*H, s*W]` (float32) of mask embeddings `[M, K, C]`.

    An embedding is the hidden state that emits a `<MASK>`.

    `features [B, H, W, C]`; the masks are sorted by image, `counts [B]` says how many each has.
    """
    scale = features.shape[-1] ** -0.5
    if product_type(embeddings) == torch.float16:
        # a sum of C products may exceed 65504, its largest number; a power of two changes no digit
        early = 2.0 ** -(features.shape[-1].bit_length() // 2)
        embeddings, scale = embeddings * early, scale / early
    planes = [
        torch.einsum("mkc,hwc->mkhw", per_image, image)
        for per_image, image in zip(embeddings.split(list(counts)), features, strict=True)
    ]
    # one image: nothing to join, and a copy of all planes costs as much as arranging them
    joined = planes[0] if len(planes) == 1 else torch.cat(planes)
    return arrange_planes(joined.float().mul_(scale))
