"""What the four numbers of a box mean: declared, never guessed; a better fit is only told.

`--boxes` is the order of the numbers, `--scale` their unit, `--of` the image that pixels are counted in. A
network's
image counts as resized without regard to its shape; boxes of padded images must be brought back before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torchvision.ops import box_iou

from ufo.data.errors import DataError
from ufo.ops.nearest import instead

Size = tuple[int, int]  # height, width
ORDERS = ("xyxy", "xywh", "cxcywh")
UNITS = {"pixels": None, "0-1": 1.0, "0-999": 999.0, "0-1000": 1000.0}
SAMPLE = 400  # images or expressions from which the fit of other conventions is taken
SIDES = (224, 336, 384, 448, 512, 560, 640, 672, 768, 800, 896, 1024, 1120, 1280, 1344)
"""Of square images that networks see, in pixels."""
RIGHT = 0.5  # a mean IoU from which boxes are right, whatever they are compared with
FAR_BETTER, AT_LEAST = 1.5, 0.1  # times the declared one's mean IoU, and by how much more


@dataclass(frozen=True)
class Convention:
    """How boxes are written; `unit` is what the image's side is in it, None: pixels."""

    order: str
    scale: str = "pixels"
    of: Size | None = None  # of a resized image; None: the original

    @property
    def unit(self) -> float | None:
        """What stands for a whole side; None where pixels do."""
        return UNITS[self.scale] if self.scale in UNITS else float(self.scale.removeprefix("bins:"))

    def xywh(self, boxes: np.ndarray, size: Size | None) -> np.ndarray:
        """COCO's boxes float64 `[N, 4]` in pixels of an image of `size`; such ones are left as they are."""
        if self.order == "xywh":
            return boxes * self._factor(size)
        corners = self.xyxy(boxes, size)
        return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)

    def xyxy(self, boxes: np.ndarray, size: Size | None) -> np.ndarray:
        """Corners float64 `[N, 4]` in pixels of an image of `size`."""
        boxes = boxes * self._factor(size)
        first, second = boxes[:, :2], boxes[:, 2:]
        if self.order == "xywh":
            second = first + second
        elif self.order == "cxcywh":
            first, second = first - second / 2, first + second / 2
        return np.concatenate([first, second], axis=1)

    def _factor(self, size: Size | None) -> np.ndarray | float:
        if self.unit is None and self.of is None:
            return 1.0
        if size is None:
            raise DataError(
                f"boxes in {self.scale} need the size of each image, which the annotations do not state; "
                "add `height` and `width` to their images."
            )
        sides = np.array([size[1], size[0]] * 2, dtype=np.float64)
        if self.unit is not None:
            return sides / self.unit
        assert self.of is not None
        return sides / np.array([self.of[1], self.of[0]] * 2, dtype=np.float64)

    def __str__(self) -> str:
        if self.unit is not None:
            return f"{self.order} in {self.scale} of the image"
        where = "the original image" if self.of is None else f"the image resized to {self.of[0]}x{self.of[1]}"
        return f"{self.order} in pixels of {where}"

    @property
    def options(self) -> str:
        """The options that declare it."""
        of = "original" if self.of is None else f"resized:{self.of[0]}x{self.of[1]}"
        return f"--boxes {self.order} --scale {self.scale}" + (f" --of {of}" if self.unit is None else "")


def read_scale(text: str) -> str:
    """The scale, checked. Raises DataError."""
    if text in UNITS or re.fullmatch(r"bins:[1-9]\d{0,5}", text):
        return text
    raise DataError(f"--scale {text}: {instead(text, [*UNITS, 'bins:N'], 'there are')}")


def read_of(text: str) -> Size | None:
    """The image that pixels are counted in: (height, width), None: the original. Raises DataError."""
    if text == "original":
        return None
    found = re.fullmatch(r"resized:([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if not found:
        raise DataError(f"--of {text}: write original, or resized:HEIGHTxWIDTH such as resized:448x448.")
    return int(found[1]), int(found[2])


def others(declared: Convention) -> Iterator[Convention]:
    """Conventions that a model may have meant instead."""
    scales = [*UNITS, declared.scale] if declared.scale not in UNITS else [*UNITS]
    for order in ORDERS:
        for scale in scales:
            sizes = {None, declared.of} if scale == "pixels" else {None}
            for of in sizes:
                other = replace(declared, order=order, scale=scale, of=of)
                if other != declared:
                    yield other


def of_networks(declared: Convention) -> Iterator[Convention]:
    """The same in pixels of the image that a network may have seen."""
    if declared.unit is None:
        for side in SIDES:
            yield replace(declared, of=(side, side))


Pair = tuple[np.ndarray, np.ndarray, "Size | None"]
"""Predicted boxes `[N, 4]` as written, annotated ones xyxy `[M, 4]`, the image's size."""


def fit(convention: Convention, pairs: Sequence[Pair]) -> float:
    """The mean over predicted boxes of the largest IoU with an annotated one, 0 without any box."""
    found = []
    for boxes, truth, size in pairs:
        predicted = torch.from_numpy(convention.xyxy(boxes, size))
        valid = (predicted[:, 2:] > predicted[:, :2]).all(1)
        best = box_iou(predicted, torch.from_numpy(truth)).max(1).values.nan_to_num()
        found.append(torch.where(valid, best, 0))
    return float(torch.cat(found).mean()) if found else 0.0


def doubt(declared: Convention, pairs: Sequence[Pair]) -> str:
    """A warning if another convention fits far better than the declared one; empty if none does."""
    step = max(1, len(pairs) // SAMPLE)
    pairs = [pair for pair in pairs[::step] if len(pair[0]) and len(pair[1]) and pair[2] is not None]
    if not pairs:
        return ""
    now = fit(declared, pairs)
    if now * FAR_BETTER > 1:
        return ""
    fits = [(fit(other, pairs), other) for other in others(declared)]
    # with so many sizes some fits by chance, so that only one that is right counts
    fits += [found for other in of_networks(declared) if (found := (fit(other, pairs), other))[0] >= RIGHT]
    best, other = max(fits, key=lambda found: found[0])
    if best < now + AT_LEAST or best < now * FAR_BETTER:
        return ""
    return (
        f"the boxes fit far better as {other} (mean IoU {best:.2f}) than as declared, {declared} "
        f"({now:.2f}); "
        f"they are scored as declared: if the model writes the other, say {other.options}"
    )
