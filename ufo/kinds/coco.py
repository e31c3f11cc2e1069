"""Parts of records in the manner of COCO's results: categories from 1, boxes `[x, y, width, height]`, RLE.

A prediction may have been made at another size than the original image's, in whose pixels records are.
"""

from __future__ import annotations

from typing import Any

from pycocotools.mask import toBbox
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from ufo.ops.masks import rle_encode
from ufo.types import Prediction


def category(label: int, prediction: Prediction) -> dict[str, Any]:
    """Number and name of a class."""
    return {"category_id": label + 1, "category": prediction.classes[label]}


def scaled_boxes(boxes: Tensor, predicted: tuple[int, int], size: tuple[int, int]) -> list[list[float]]:
    """xyxy `[N, 4]` in one size (height, width) -> N of `[x, y, width, height]` in another."""
    down, right = (new / old for new, old in zip(size, predicted, strict=True))
    return [
        [round(v, 2) for v in (x1 * right, y1 * down, (x2 - x1) * right, (y2 - y1) * down)]
        for x1, y1, x2, y2 in boxes.tolist()
    ]


def scaled_rle(mask: Tensor, size: tuple[int, int]) -> dict[str, Any]:
    """RLE at `size` of one mask bool `[H, W]`; one at a time, as all of a photo's fill memory."""
    if tuple(mask.shape) != size:
        mask = resize(mask[None], list(size), InterpolationMode.NEAREST)[0]
    return rle_encode(mask[None])[0]


def box_of(rle: dict[str, Any]) -> list[float]:
    """The box around a mask, as COCO counts it: the last pixel belongs to it."""
    box: list[float] = toBbox(rle).tolist()
    return box
