"""COCO RLE of masks that lie on a GPU: only the places where they change are brought to the CPU.

Shapes: N masks, `H W` pixels. pycocotools, which encodes masks on a CPU, would want every pixel.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

_MASKS_AT_ONCE = 64


def encode_changes(masks: Tensor) -> list[dict[str, Any]]:
    """What `ufo.ops.masks.rle_encode` says of masks `[N, H, W]`, to the byte."""
    return [rle for part in masks.split(_MASKS_AT_ONCE) for rle in _encode(part)] if len(masks) else []


def _encode(masks: Tensor) -> list[dict[str, Any]]:
    height, width = masks.shape[1:]
    pixels = masks.detach().mT.reshape(len(masks), -1).bool()  # [N, W*H]: COCO runs down the columns
    changes = torch.cat([pixels[:, :1], pixels[:, 1:] != pixels[:, :-1]], 1)
    mask, place = changes.nonzero().cpu().numpy().T  # sorted by mask, then by place
    starts = np.searchsorted(mask, np.arange(len(masks) + 1))
    runs = []
    for first, last in pairwise(starts):
        counts = np.diff(
            place[first:last], prepend=0, append=height * width
        )  # of zeros, of ones, of zeros, ...
        runs.append({"size": [height, width], "counts": counts.tolist()})
    encoded = coco_mask.frPyObjects(runs, height, width)
    return [{"size": list(rle["size"]), "counts": rle["counts"].decode()} for rle in encoded]
