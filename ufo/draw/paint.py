"""Boxes, masks, class maps and labels on an image; the same input gives the same pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageChops, ImageDraw, ImageFilter
from torch import Tensor

from ufo.draw.blocks import GREY, INK, RGB, WHITE, clean, color, font
from ufo.kinds.marks import Marks
from ufo.types import IGNORE

HATCH = 11
"""Pixels between the lines over what has no class."""

OPACITY = 140
"""Of the colours of a class map over the grey picture, of 255."""

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
    """The picture under the colours of its class map, and the classes that are seen in it, largest first.

    Below a colour the picture is grey, as its own colours would change those that the legend names. Pixels
    without a class keep the picture's colours, under thin grey lines: `IGNORE` in the legend.
    """
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
    opacity = np.array([0 if i == IGNORE else OPACITY for i in indices], dtype=np.uint8)
    colored, alpha = Image.fromarray(rgb[best]), Image.fromarray(opacity[best])
    grey = Image.composite(picture.convert("L").convert("RGB"), picture, alpha.point(lambda v: 255 * (v > 0)))
    picture = Image.composite(colored, grey, alpha)
    if IGNORE in indices:
        rows, columns = np.indices(best.shape, sparse=True)
        unknown = (best == indices.index(IGNORE)) & ((rows + columns) % HATCH == 0)
        picture.paste(GREY, (0, 0), Image.fromarray(unknown.astype(np.uint8) * 255))
    # a light line between regions
    edge = np.zeros(best.shape, dtype=bool)
    edge[1:] |= best[1:] != best[:-1]
    edge[:, 1:] |= best[:, 1:] != best[:, :-1]
    lines = Image.fromarray(edge.astype(np.uint8) * 210).filter(ImageFilter.MaxFilter(3))
    lines = lines.filter(ImageFilter.GaussianBlur(0.8))
    picture.paste(WHITE, (0, 0), lines)
    seen = set(np.unique(best).tolist())
    return picture, [index for k, index in enumerate(indices) if k in seen]


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
    """A label at every object that has room for one; none covers another."""
    size = 15 if len(boxes) <= 12 else 12  # pixels
    whole = [_inside(box, picture.size) for box in boxes]
    texts = [clean(name)[:40] for name in marks.labels]
    named = [label for label in zip(whole, marks.colors, texts, strict=True) if label[2]]
    sizes = [(math.ceil(font(size, name).getlength(name)) + 8, size + 5) for _, _, name in named]
    places = label_places([box for box, _, _ in named], sizes, picture.size)
    pen = ImageDraw.Draw(picture)
    for (_, index, name), place in zip(named, places, strict=True):
        if place is None:
            continue
        left, up, right, low = place
        rgb = color(index)
        pen.rectangle((left, up, right - 1, low - 1), rgb)
        dark = rgb[0] * 0.299 + rgb[1] * 0.587 + rgb[2] * 0.114 > 135
        at = left + 4, (up + low) / 2
        pen.text(at, name, INK if dark else WHITE, font(size, name), anchor="lm")


def label_places(
    boxes: Sequence[Region], sizes: Sequence[tuple[int, int]], picture: tuple[int, int]
) -> list[Region | None]:
    """Where labels of some sizes (width, height) go, one after the other; none covers an earlier one.

    A label stands at its box, else as near to it as there is room; None where the picture is full.
    """
    taken = np.zeros((0, 4), dtype=np.int64)
    found: list[Region | None] = []
    for box, (width, height) in zip(boxes, sizes, strict=True):
        spot = _free_spot(box, (width, height), picture, taken)
        place = None if spot is None else (spot[0], spot[1], spot[0] + width, spot[1] + height)
        found.append(place)
        if place is not None:
            taken = np.concatenate([taken, [place]])
    return found


def _free_spot(
    box: Region, label: tuple[int, int], picture: tuple[int, int], taken: np.ndarray
) -> tuple[int, int] | None:
    """The first place around `box`, then in the whole picture, that covers none of `taken [n, 4]`."""
    (x1, y1, x2, y2), (width, height) = box, label
    right, low = max(0, picture[0] - width), max(0, picture[1] - height)
    around = [
        (x, y) for y in (y1 - height, y1, y2, y2 - height) for x in (x1, x2 - width, (x1 + x2 - width) // 2)
    ]
    around = [(max(0, min(x, right)), max(0, min(y, low))) for x, y in around]
    if free := _first_free(np.array(around), label, taken):
        return free
    columns, rows = np.arange(0, right + 1, max(1, width // 4)), np.arange(0, low + 1, max(1, height // 2))
    grid = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2)
    far = np.abs(grid - [x1, y1 - height]).sum(axis=1)
    return _first_free(grid[np.argsort(far, kind="stable")], label, taken)


def _first_free(places: np.ndarray, label: tuple[int, int], taken: np.ndarray) -> tuple[int, int] | None:
    """The first of `places [n, 2]` (left, top) at which a label covers nothing."""
    ends = places + label
    apart = (
        (places[:, None, 0] >= taken[:, 2])
        | (ends[:, None, 0] <= taken[:, 0])
        | (places[:, None, 1] >= taken[:, 3])
        | (ends[:, None, 1] <= taken[:, 1])
    ).all(axis=1)
    if not apart.any():
        return None
    x, y = places[int(apart.argmax())].tolist()
    return x, y


def _inside(box: Sequence[float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Whole pixels of the picture, ordered, whatever numbers a box has."""
    x1, y1, x2, y2 = (
        round(min(max(v, 0), limit - 1)) if math.isfinite(v) else 0
        for v, limit in zip(box, (*size, *size), strict=True)
    )
    return x1, y1, max(x1, x2), max(y1, y2)
