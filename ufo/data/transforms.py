"""Sample -> Sample: resizing and augmentation on torchvision.transforms.v2.

See docs/published_system.md#transforms.
Factories of the published pipelines, for Hydra. The last resize is always to a square, whatever
the image's ratio. All randomness comes from torch's global generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ufo.data.augmentations import (
    CopyPaste,
    DropTiny,
    PhotometricDistort,
    Pipeline,
    RandomAbsoluteCrop,
    RandomRelativeCrop,
    RandomSemanticCrop,
    Transform,
    planes,
)
from ufo.types import Sample

GREY = 114
"""Of a picture's surroundings, as detectors are used to."""


class _QuickMasks(v2.Transform):
    """torchvision's resizing, with masks by NumPy: the same pixels in a sixth of the time."""

    size: Sequence[int]

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if isinstance(inpt, tv_tensors.Mask) and inpt.dtype == torch.uint8:
            size = params["size"] if params else self.size
            resize = resize_masks if inpt.ndim == 3 else resize_nearest
            return tv_tensors.wrap(resize(inpt, size), like=inpt)
        return super().transform(inpt, params)


class Resize(_QuickMasks, v2.Resize):
    """To a fixed size."""


class RandomShortestSize(_QuickMasks, v2.RandomShortestSize):
    """The short side to a random one of some sizes."""


def resize_nearest(masks: Tensor, size: Sequence[int]) -> Tensor:
    """Masks `[..., H, W]` at `size` (height, width); those that `F.interpolate(mode="nearest")` takes."""
    values = masks.as_subclass(Tensor).numpy()
    for axis in (-1, -2):  # columns first: their pixels are copied one by one, rows in one piece
        old, new = masks.shape[axis], size[axis]
        if old != new:
            values = values.take(_places(old, new), axis=axis)
    return torch.from_numpy(np.ascontiguousarray(values))


def resize_masks(masks: Tensor, size: Sequence[int]) -> Tensor:
    """`resize_nearest` of masks [N, H, W] that are 0 or 1: eight of them at a time, as the bits of one."""
    values, resized = masks.as_subclass(Tensor).numpy(), np.empty((len(masks), *size), dtype=np.uint8)
    for first in range(0, len(values), 8):
        part = values[first : first + 8]
        bits = part[0].copy()
        for i, mask in enumerate(part[1:], start=1):
            bits |= mask << i
        bits = resize_nearest(torch.from_numpy(bits), size).numpy()
        for i in range(len(part)):
            np.bitwise_and(bits >> i, 1, out=resized[first + i])
    return torch.from_numpy(resized)


@lru_cache(maxsize=256)
def _places(old: int, new: int) -> np.ndarray:
    """Which of `old` pixels in a row each of `new` ones takes; torch says it, as its rounding is its own."""
    row = torch.arange(old, dtype=torch.float32)[None, None, None]
    return torch.nn.functional.interpolate(row, size=(1, new), mode="nearest")[0, 0, 0].long().numpy()


def square_resize(size: int, interpolation: str = "bilinear", antialias: bool = False) -> v2.Resize:
    """Resize to `size` x `size` pixels; masks and semantic maps by nearest neighbour.

    The reference uses bilinear without antialias for detection, segmentation and grounding
    training, bicubic with antialias for captions and grounding tests.
    """
    return Resize((size, size), interpolation=v2.InterpolationMode(interpolation), antialias=antialias)


class SmallOnGrey(torch.nn.Module):
    """The picture as a square of `size` / U[1, `most`] pixels a side, anywhere on a grey one of `size`."""

    def __init__(self, size: int, most: float) -> None:
        super().__init__()
        self.size, self.most = size, most

    def forward(self, sample: Sample) -> Sample:
        side = round(self.size / (1 + (self.most - 1) * float(torch.rand(()))))
        left, top = (int(torch.randint(self.size - side + 1, ())) for _ in range(2))
        around = [left, top, self.size - side - left, self.size - side - top]

        def placed(value: Any) -> Any:
            grey = GREY if isinstance(value, tv_tensors.Image) else 0
            return F.pad(value, around, fill=grey) if isinstance(value, tv_tensors.TVTensor) else value

        return cast(Sample, {k: placed(v) for k, v in square_resize(side)(sample).items()})


def plain(
    size: int, jitter: float = 0.0, interpolation: str = "bilinear", antialias: bool = False
) -> Pipeline:
    """Square resize and brightness, contrast and saturation jitter: no flip, no crop, no hue.

    For scenes whose texts speak of left, right and colours.
    """
    steps: list[Transform] = [square_resize(size, interpolation, antialias)]
    if jitter:
        steps += [planes, v2.ColorJitter(brightness=jitter, contrast=jitter, saturation=jitter)]
    return Pipeline(steps)


def detection_train(
    size: int,
    short_sides: Sequence[int] = (400, 500, 600),
    max_long_side: int = 4200,
    crop: Sequence[int] = (384, 600),
    multi_scale: float = 0.5,
    flip: float = 0.5,
    min_mask_area: int = 0,
    copy_paste: bool = True,
    small: float = 0.0,
    smallest: float = 0.5,
) -> Transform:
    """COCO training, detection and instance segmentation.

    With probability `multi_scale`: resize the short side to one of `short_sides` pixels, crop to
    between `crop[0]` and `crop[1]` pixels per side. Then a resize to `size` x `size`. With probability
    `small`, which is not published: shrink the whole picture to `smallest` of its sides or more, on grey.
    Instance segmentation sets `min_mask_area=1`. With `copy_paste`, which needs masks, the result is a
    `CopyPaste` that must be bound to its data set.
    """
    if min(small, multi_scale) < 0 or small + multi_scale > 1 + 1e-6:
        raise ValueError(
            f"multi_scale={multi_scale} and small={small} are shares of all pictures: none is negative, and "
            "together they are at most 1; lower one of them"
        )
    scale = RandomShortestSize(list(short_sides), max_long_side, antialias=False)
    cropped = Pipeline([scale, RandomAbsoluteCrop(*crop), square_resize(size)])
    ways: list[tuple[Transform, float]] = [
        (square_resize(size), max(1 - multi_scale - small, 0)),
        (cropped, multi_scale),
    ]
    if small:  # a way that is never taken would change what the others draw
        ways.append((SmallOnGrey(size, 1 / smallest), small))
    pipeline = Pipeline(
        [
            v2.RandomHorizontalFlip(flip),
            v2.RandomChoice([way for way, _ in ways], p=[share for _, share in ways]),
            DropTiny(min_mask_area=min_mask_area),
        ]
    )
    return CopyPaste(pipeline) if copy_paste else pipeline


def semantic_train(
    size: int,
    scale: Sequence[float] = (1.0, 2.0),
    cat_max_ratio: float = 0.75,
    crop: float = 0.5,
    flip: float = 0.5,
) -> Pipeline:
    """ADE20K training.

    With probability `crop`: resize to a square of `scale` times `size` pixels, in steps of a tenth,
    and crop `size` x `size` out of it; else resize to `size` x `size`. Flip, distort colours.
    """
    tenths = range(round(scale[0] * 10), round(scale[1] * 10) + 1)
    larger = v2.RandomChoice([square_resize(size * x // 10) for x in tenths])
    cropped = Pipeline([larger, RandomSemanticCrop(size, cat_max_ratio)])
    return Pipeline(
        [
            v2.RandomChoice([square_resize(size), cropped], p=[1 - crop, crop]),
            v2.RandomHorizontalFlip(flip),
            planes,
            PhotometricDistort(),
        ]
    )


def caption_train(
    size: int,
    scale: Sequence[float] = (0.08, 1.0),
    ratio: Sequence[float] = (3 / 4, 4 / 3),
    flip: float = 0.5,
) -> Pipeline:
    """Caption training: a crop of `scale` of the area, resized; flip."""
    crop = v2.RandomResizedCrop(
        (size, size), tuple(scale), tuple(ratio), v2.InterpolationMode.BICUBIC, antialias=True
    )
    return Pipeline([crop, v2.RandomHorizontalFlip(flip)])


def grounding_train(size: int, crop: Sequence[float] = (0.8, 1.0), jitter: float = 0.5) -> Pipeline:
    """Grounding training: crop, resize, colour jitter with probability `jitter`.

    Each side of the crop is `crop[0]` to `crop[1]` of the image's. No flip: texts know left and
    right. A crop that lost the object gives None. The reference jitters first, all pixels of the file instead
    of the few that are left; apart from rounding only the mean that contrast refers to differs.
    """
    color = v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
    jittered = v2.RandomApply([color], p=jitter)
    return Pipeline([RandomRelativeCrop(*crop), square_resize(size), planes, jittered])
