"""The augmentations that torchvision.transforms.v2 lacks (docs/published_system.md#transforms).

Each maps a `Sample` to a `Sample`, or to None if the sample lost what it is about, so that another
one is drawn. All randomness comes from torch's global generator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ufo.data.errors import DataError
from ufo.ops.masks import mask_boxes
from ufo.types import IGNORE, Sample

Transform = Callable[[Sample], "Sample | None"]


class Pipeline:
    """The given steps in a row; None from one of them ends it."""

    def __init__(self, steps: Sequence[Transform]) -> None:
        self.steps = list(steps)

    def __call__(self, sample: Sample) -> Sample | None:
        for step in self.steps:
            result = step(sample)
            if result is None:
                return None
            sample = result
        return sample

    def __repr__(self) -> str:
        return f"Pipeline({', '.join(map(repr, self.steps))})"


def select(sample: Sample, keep: Tensor) -> Sample:
    """The sample with objects `keep` (bool or int64 [N]) only: boxes, labels and masks in step."""
    chosen: dict[str, Any] = dict(sample)
    for key in ("boxes", "labels", "masks"):
        if (value := chosen.get(key)) is not None:
            picked = _picked(value, keep) if key == "masks" else value[keep]
            chosen[key] = _like(picked, value)
    return cast(Sample, chosen)


def _picked(masks: Tensor, keep: Tensor) -> Tensor:
    """`masks[keep]`, by NumPy: whole masks are copied at once."""
    return torch.from_numpy(masks.as_subclass(Tensor).numpy()[keep.numpy()])


def _like(value: Tensor, model: Any) -> Tensor:
    return tv_tensors.wrap(value, like=model) if isinstance(model, tv_tensors.TVTensor) else value


def _everywhere(sample: Sample, function: Callable[..., Any], *args: Any) -> Sample:
    """`function` applied to the image and everything that lies on it."""
    values = sample.items()
    done = {k: function(v, *args) if isinstance(v, tv_tensors.TVTensor) else v for k, v in values}
    return cast(Sample, done)


def _between(low: int, high: int) -> int:
    """Uniform integer of low..high, both included."""
    return int(torch.randint(low, high + 1, ()))


def _draw(dataset: Any) -> Sample:
    return dataset[_between(0, len(dataset) - 1)]


def _crop(sample: Sample, size: tuple[int, int]) -> Sample:
    """A crop of `size` (height, width) at a random place; boxes are clipped, none is dropped."""
    height, width = sample["image"].shape[-2:]
    top, left = _between(0, height - size[0]), _between(0, width - size[1])
    return _everywhere(sample, F.crop, top, left, *size)


def _as_bool(masks: Tensor) -> np.ndarray:
    """Masks uint8 (0 or 1) or bool [N, H, W] as an array of bool; no copy if they are contiguous."""
    return masks.as_subclass(Tensor).contiguous().numpy().view(np.bool_)


def mask_areas(masks: Tensor) -> Tensor:
    """Pixels of each mask [N, H, W], 0 or 1: int64 [N]. (torch adds bytes up many times slower.)"""
    return torch.tensor([np.count_nonzero(mask) for mask in _as_bool(masks)], dtype=torch.int64)


def _extent(boxes: Tensor) -> Tensor:
    """The smaller of width and height of boxes [N, 4]: [N]."""
    return (boxes[:, 2:] - boxes[:, :2]).amin(1)


def planes(sample: Sample) -> Sample:
    """The image's channels one after the other, not interleaved as in files: colours change quicker."""
    image = sample["image"]
    return cast(Sample, {**sample, "image": _like(image.contiguous(), image)})


class RandomAbsoluteCrop:
    """Crop each side to U{min(side, low)..min(side, high)} pixels; objects outside are dropped.

    A crop without any object is as good as another.
    """

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high

    def __call__(self, sample: Sample) -> Sample:
        height, width = sample["image"].shape[-2:]
        size = [_between(min(side, self.low), min(side, self.high)) for side in (height, width)]
        sample = _crop(sample, (size[0], size[1]))
        return select(sample, _extent(sample["boxes"]) > 0) if "boxes" in sample else sample


class RandomRelativeCrop:
    """Crop each side to U[low, high] of its length; None if a box lies outside the crop."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def __call__(self, sample: Sample) -> Sample | None:
        shares = self.low + (self.high - self.low) * torch.rand(2)
        height, width = sample["image"].shape[-2:]
        size = int(height * shares[0] + 0.5), int(width * shares[1] + 0.5)
        sample = _crop(sample, (max(size[0], 1), max(size[1], 1)))
        return sample if (_extent(sample["boxes"]) > 0).all() else None


class RandomSemanticCrop:
    """Crop `size` x `size` in which no class has more than `cat_max_ratio` of the labelled pixels.

    The last of `tries` crops is taken as it is. Smaller images are padded, their labels with 255.
    """

    def __init__(self, size: int, cat_max_ratio: float = 0.75, tries: int = 10) -> None:
        self.size, self.cat_max_ratio, self.tries = size, cat_max_ratio, tries

    def __call__(self, sample: Sample) -> Sample:
        sample = self._padded(sample)
        for _ in range(self.tries):
            cropped = _crop(sample, (self.size, self.size))
            counts = torch.bincount(cropped["semantic"].flatten(), minlength=IGNORE + 1)[:IGNORE]
            if (counts > 0).sum() > 1 and counts.max() < self.cat_max_ratio * counts.sum():
                break
        return cropped

    def _padded(self, sample: Sample) -> Sample:
        height, width = sample["image"].shape[-2:]
        missing = [0, 0, max(self.size - width, 0), max(self.size - height, 0)]
        if not any(missing):
            return sample
        padded = _everywhere(sample, F.pad, missing)
        padded["semantic"] = F.pad(sample["semantic"], missing, fill=IGNORE)
        return padded


class PhotometricDistort(v2.RandomPhotometricDistort):
    """Brightness, contrast, saturation and hue, each with probability `p`; channels stay in order.

    The published ranges: hue +-18 of 180 is a tenth of the circle. Where the
    reference adds up to 32 of 255 to every pixel, v2 scales; 25 % is the same at mid-grey.
    """

    def __init__(
        self,
        brightness: Sequence[float] = (0.75, 1.25),
        contrast: Sequence[float] = (0.5, 1.5),
        saturation: Sequence[float] = (0.5, 1.5),
        hue: Sequence[float] = (-0.1, 0.1),
        p: float = 0.5,
    ) -> None:
        super().__init__(tuple(brightness), tuple(contrast), tuple(saturation), tuple(hue), p)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        return {**super().make_params(flat_inputs), "channel_permutation": None}


class DropTiny:
    """Drop objects with a side of at most `min_size` or a mask below `min_mask_area` pixels.

    None if that leaves nothing; a sample that came without objects passes.
    """

    def __init__(self, min_size: float = 1e-5, min_mask_area: int = 0) -> None:
        self.min_size, self.min_mask_area = min_size, min_mask_area

    def __call__(self, sample: Sample) -> Sample | None:
        keep = _extent(sample["boxes"]) > self.min_size
        if self.min_mask_area and "masks" in sample:
            keep &= mask_areas(sample["masks"]) >= self.min_mask_area
        if len(keep) and not keep.any():
            return None
        return sample if keep.all() else select(sample, keep)


class CopyPaste:
    """Paste objects of a second sample onto the first one.

    Args:
        transform: applied to both samples; must yield equal sizes.
        partner: draws a second sample, untransformed; or call `bind` with the data set.
        max_objects: up to this many less one are pasted; their number is uniform from none to all.
        max_shift, min_area: an object that is now partly covered stays if no side of its box moved
            by more than `max_shift` pixels or if more than `min_area` pixels of it are visible.
        tries: failing partners in a row after which nothing is pasted.

    When something is pasted, the boxes of the first sample become tight boxes of what is visible.
    """

    def __init__(
        self,
        transform: Transform,
        partner: Callable[[], Sample] | None = None,
        max_objects: int = 100,
        max_shift: float = 10,
        min_area: int = 300,
        tries: int = 10,
    ) -> None:
        self.transform, self.partner, self.tries = transform, partner, tries
        self.max_objects, self.max_shift, self.min_area = max_objects, max_shift, min_area

    def bind(self, dataset: Any) -> None:
        """Draw second samples uniformly from `dataset` (map-style) from now on."""
        self.partner = partial(_draw, dataset)  # unlike a lambda, it travels to spawned workers

    def __call__(self, sample: Sample) -> Sample | None:
        below, above = self.transform(sample), self._second()
        if below is None or above is None:
            return below
        if "masks" not in below or "masks" not in above:
            raise ValueError("Copy-paste needs masks: build the data set with masks=true.")
        objects = len(above["masks"])
        count = int(torch.randint(min(objects + 1, self.max_objects), ()))
        return self._paste(below, above, torch.randperm(objects)[:count]) if count else below

    def _second(self) -> Sample | None:
        if self.partner is None:
            raise ValueError("Copy-paste has no second sample: call bind(dataset) first.")
        for _ in range(self.tries):
            try:
                sample = self.transform(self.partner())
            except DataError:
                continue
            if sample is not None:
                return sample
        return None

    def _paste(self, below: Sample, above: Sample, chosen: Tensor) -> Sample:
        """Objects `chosen` (int64 [n]) of `above` on `below`, whose masks are copied only once."""
        own, pasted = below["masks"].as_subclass(Tensor), above["masks"].as_subclass(Tensor)
        masks = torch.empty((len(own) + len(chosen), *own.shape[1:]), dtype=own.dtype)  # visible, then pasted
        visible = masks[: len(own)].copy_(own)
        covered = pasted[chosen[0]].view(torch.bool).clone()
        for i in chosen[1:].tolist():
            covered |= pasted[i].view(torch.bool)
        left, top, right, bottom = mask_boxes(covered[None])[0].int().tolist()
        place = (slice(None), slice(top, bottom), slice(left, right))  # nothing changes elsewhere
        visible[place] *= ~covered[place[1:]]
        area, tight = mask_areas(visible), mask_boxes(visible)
        shift = (tight - below["boxes"].as_subclass(Tensor)).abs().amax(1)
        keep = (area > 0) & ((shift <= self.max_shift) | (area > self.min_area))
        kept = keep.nonzero()[:, 0].tolist()
        for new, old in enumerate(kept):
            if new != old:
                masks[new] = masks[old]
        for new, i in enumerate(chosen.tolist(), start=len(kept)):
            masks[new] = pasted[i]
        image = below["image"].as_subclass(Tensor).clone()
        image[place] = torch.where(covered[place[1:]], above["image"][place], image[place])
        return cast(
            Sample,
            {
                **below,
                "image": _like(image, below["image"]),
                "boxes": _like(torch.cat([tight[keep], above["boxes"][chosen]]), below["boxes"]),
                "labels": torch.cat([below["labels"][keep], above["labels"][chosen]]),
                "masks": _like(masks[: len(kept) + len(chosen)], below["masks"]),
            },
        )
