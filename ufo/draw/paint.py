"""Boxes, masks, class maps and labels on an image; the same input gives the same pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageChops, ImageDraw, ImageFilter
from torch import Tensor

from ufo.draw.blocks import INK, RGB, WHITE, clean, color, font
from ufo.kinds.marks import Marks
from ufo.types import IGNORE

Region = tuple[int, int, int, int]  # left, top, right, bottom


def paint(picture: Image.Image, marks: Marks, size: tuple[int, int]) -> tuple[Image.Image, list[int]]:
    """Marks on the resized picture of an image of `size` (H, W), and the classes of its legend."""
    for part in (marks.masks, marks.semantic):
        if part is not None and tuple(part.shape[-2:]) != size:
            raise ValueError(
                f"a mask is {tuple(part.shape[-2:])} (height, width) but the image is {size}; "
                "predictions and targets are drawn in the original image's pixels"
            )
    scale = torch.tensor([picture.width / size[1], picture.height / size[0]]).repeat(2)
    boxes = (marks.boxes.float() * scale).tolist()
    legend: list[int] = []
    if marks.semantic is not None:
        picture, legend = _paint_semantic(picture, marks.semantic)
    # the best object last, on top
    for i in reversed(range(len(boxes))):
        if marks.masks is not None:
            _paint_mask(picture, marks.masks[i], boxes[i], color(marks.colors[i]))
        else:
            _paint_box(picture, boxes[i], color(marks.colors[i]))
    for box in [] if marks.dashed is None else (marks.dashed * scale).tolist():
        _paint_dashes(picture, box)
    _paint_labels(picture, boxes, marks)
    return picture, legend


def resized(image: Tensor, min_side: int, max_side: int) -> Image.Image:
    """The image as a picture: small ones grow by a whole factor, large ones shrink."""
    height, width = image.shape[-2:]
    factor = min(max(1, math.ceil(min_side / min(height, width))), max_side / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    pixels = image.detach().cpu().permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def _soft(mask: Tensor, size: tuple[int, int], region: Region | None = None) -> Image.Image:
    """The part of a mask in `region` of a picture of `size`, 0..255, smooth instead of in steps."""
    scale = size[0] / mask.shape[1], size[1] / mask.shape[0]
    left, top, right, bottom = region or (0, 0, *size)
    part = (left / scale[0], top / scale[1], right / scale[0], bottom / scale[1])
    small = Image.fromarray(mask.to(torch.uint8).mul(255).cpu().numpy())
    large = small.resize((right - left, bottom - top), Image.Resampling.BOX, part)
    return large.filter(ImageFilter.GaussianBlur(0.5 * scale[0])) if scale[0] > 1 else large


def _paint_mask(picture: Image.Image, mask: Tensor, box: Sequence[float], rgb: RGB) -> None:
    """Half-transparent inside, opaque at the contour, a thin light line around it."""
    margin = 4 + 3 * picture.width // mask.shape[1]
    x1, y1, x2, y2 = _inside(box, picture.size)
    region = (
        *(max(0, x1 - margin), max(0, y1 - margin)),
        *(min(picture.width, x2 + margin), min(picture.height, y2 + margin)),
    )
    soft = _soft(mask, picture.size, region)
    soft = soft.point([min(max((v - 96) * 4, 0), 255) for v in range(256)])
    inner = ImageChops.subtract(soft, soft.filter(ImageFilter.MinFilter(7)))
    outer = ImageChops.subtract(soft.filter(ImageFilter.MaxFilter(3)), soft)
    picture.paste(rgb, region, soft.point([round(v * 0.45) for v in range(256)]))
    picture.paste(rgb, region, inner)
    picture.paste(WHITE, region, outer.point([round(v * 0.8) for v in range(256)]))


def _paint_semantic(picture: Image.Image, semantic: Tensor) -> tuple[Image.Image, list[int]]:
    """The picture under the colours of its class map, and the classes present, largest first."""
    present, counts = semantic.unique(return_counts=True)
    present = present[counts.argsort(descending=True, stable=True)]
    indices = present.tolist()
    shape = picture.height, picture.width
    best, most = np.zeros(shape, dtype=np.uint16), np.zeros(shape, dtype=np.uint8)
    for k, index in enumerate(indices):
        votes = np.asarray(_soft(semantic == index, picture.size))
        best[votes > most] = k
        most = np.maximum(most, votes)
    rgb = np.array([color(i) for i in indices], dtype=np.uint8)
    opacity = np.array([0 if i == IGNORE else 140 for i in indices], dtype=np.uint8)
    colored, alpha = Image.fromarray(rgb[best]), Image.fromarray(opacity[best])
    picture = Image.composite(colored, picture, alpha)
    # a light line between regions
    edge = np.zeros(best.shape, dtype=bool)
    edge[1:] |= best[1:] != best[:-1]
    edge[:, 1:] |= best[:, 1:] != best[:, :-1]
    lines = Image.fromarray(edge.astype(np.uint8) * 210).filter(ImageFilter.MaxFilter(3))
    lines = lines.filter(ImageFilter.GaussianBlur(0.8))
    picture.paste(WHITE, (0, 0), lines)
    return picture, [i for i in indices if i != IGNORE]


def _paint_box(picture: Image.Image, box: Sequence[float], rgb: RGB) -> None:
    pen = ImageDraw.Draw(picture)
    x1, y1, x2, y2 = _inside(box, picture.size)
    pen.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=INK, width=5)
    pen.rectangle((x1, y1, x2, y2), outline=rgb, width=3)


def _paint_dashes(picture: Image.Image, box: Sequence[float], dash: int = 7) -> None:
    pen = ImageDraw.Draw(picture)
    x1, y1, x2, y2 = _inside(box, picture.size)
    for rgb, width in ((INK, 4), (WHITE, 2)):
        for x in range(x1, x2, 2 * dash):
            for y in (y1, y2):
                pen.line((x, y, min(x + dash, x2), y), rgb, width)
        for y in range(y1, y2, 2 * dash):
            for x in (x1, x2):
                pen.line((x, y, x, min(y + dash, y2)), rgb, width)


def _paint_labels(picture: Image.Image, boxes: Sequence[Sequence[float]], marks: Marks) -> None:
    """A label at every object, where it hides as little of better objects' labels as possible."""
    size = 15 if len(boxes) <= 12 else 12  # pixels
    labels: list[Any] = []
    taken: list[Any] = []
    for box, index, name in zip(boxes, marks.colors, marks.names, strict=True):
        if not (name := clean(name)[:40]):
            continue
        width, height = math.ceil(font(size, name).getlength(name)) + 8, size + 5
        x, y = _free_spot(_inside(box, picture.size), (width, height), picture.size, taken)
        taken.append((x, y, x + width, y + height))
        labels.append((name, color(index)))
    pen = ImageDraw.Draw(picture)
    for (name, rgb), (left, up, right, low) in zip(labels[::-1], taken[::-1], strict=True):
        pen.rectangle((left, up, right - 1, low - 1), rgb)
        dark = rgb[0] * 0.299 + rgb[1] * 0.587 + rgb[2] * 0.114 > 135
        at = left + 4, (up + low) / 2
        pen.text(at, name, INK if dark else WHITE, font(size, name), anchor="lm")


def _free_spot(
    box: Sequence[int],
    label: tuple[int, int],
    picture: tuple[int, int],
    taken: Sequence[Sequence[int]],
) -> tuple[int, int]:
    """The first of some places around `box` where the label covers least of the `taken` ones."""
    (x1, y1, x2, y2), (width, height) = box, label
    places = [
        (x, y) for y in (y1 - height, y1, y2, y2 - height) for x in (x1, x2 - width, (x1 + x2 - width) // 2)
    ]
    places = [(max(0, min(x, picture[0] - width)), max(0, min(y, picture[1] - height))) for x, y in places]

    def covered(place: tuple[int, int]) -> int:
        x, y = place
        return sum(
            max(0, min(x + width, right) - max(x, left)) * max(0, min(y + height, low) - max(y, up))
            for left, up, right, low in taken
        )

    return min(places, key=covered)


def _inside(box: Sequence[float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Whole pixels of the picture, ordered, whatever numbers a box has."""
    x1, y1, x2, y2 = (
        round(min(max(v, 0), limit - 1)) if math.isfinite(v) else 0
        for v, limit in zip(box, (*size, *size), strict=True)
    )
    return x1, y1, max(x1, x2), max(y1, y2)
