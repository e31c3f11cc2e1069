"""Shapes of label tools as boxes, polygons and RLE of the picture.

Circles and ellipses become polygons, off by a tenth of a pixel at most; of a turned box the enclosing one is
taken. Sizes are (height, width), boxes x1, y1, x2, y2.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import PIL.Image
from pycocotools import mask as coco_mask

from ufo.data.datasets.segmentations import run_lengths
from ufo.data.errors import DataError
from ufo.data.labels.record import Box
from ufo.data.pictures import IMAGE_FORMATS, MAX_PIXELS

MAX_POINTS = 100_000
"""Points of the largest polygon."""
MAX_PACKED = 64 << 20
"""Bytes of the largest picture inside of an annotation file, unpacked."""


def number(value: Any) -> float | None:
    """A finite number, also one that is written as text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) and abs(found) < 1e8 else None


def numbers(values: Any, count: int | None = None) -> list[float] | None:
    """Finite numbers, or None if one is none or they are not `count`."""
    if not isinstance(values, (list, tuple)) or len(values) > 2 * MAX_POINTS:
        return None
    found = [number(value) for value in values]
    known = [value for value in found if value is not None]
    return known if len(known) == len(found) and count in (None, len(known)) else None


def points(values: Any) -> list[tuple[float, float]] | None:
    """[[x, y], ...], or None if it is something else."""
    if not isinstance(values, list) or len(values) > MAX_POINTS:
        return None
    found = [numbers(value, 2) for value in values]
    known = [(pair[0], pair[1]) for pair in found if pair is not None]
    return known if len(known) == len(found) else None


def corners(one: Sequence[float], other: Sequence[float]) -> Box:
    """The box between two opposite corners in any order."""
    (x1, x2), (y1, y2) = sorted((one[0], other[0])), sorted((one[1], other[1]))
    return x1, y1, x2, y2


def around(pairs: Iterable[Sequence[float]]) -> Box:
    """The box that encloses points."""
    xs, ys = zip(*((x, y) for x, y in pairs), strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def flat(pairs: Iterable[Sequence[float]]) -> list[float]:
    """Points as COCO writes a polygon: x1, y1, x2, y2, ..."""
    return [value for x, y in pairs for value in (float(x), float(y))]


def pairs_of(polygon: Sequence[float]) -> list[tuple[float, float]]:
    """The points of a COCO polygon."""
    return list(zip(polygon[::2], polygon[1::2], strict=True))


def turned(
    pairs: Iterable[Sequence[float]], degrees: float, centre: Sequence[float]
) -> list[tuple[float, float]]:
    """Points turned clockwise, as seen in the picture, about a centre."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    cx, cy = centre
    return [(cx + (x - cx) * cos - (y - cy) * sin, cy + (x - cx) * sin + (y - cy) * cos) for x, y in pairs]


def ellipse(cx: float, cy: float, rx: float, ry: float, degrees: float = 0.0) -> list[float]:
    """An ellipse, turned clockwise, as a polygon that is off by a tenth of a pixel at most."""
    largest = min(max(abs(rx), abs(ry), 1.0), 1e5)
    steps = max(16, math.ceil(math.pi / math.acos(1 - min(0.1 / largest, 1.0))))
    angles = [2 * math.pi * k / steps for k in range(steps)]
    rim = [(cx + rx * math.cos(a), cy + ry * math.sin(a)) for a in angles]
    return flat(turned(rim, degrees, (cx, cy)))


def area(polygon: Sequence[float]) -> float:
    """The area of a polygon in square pixels."""
    xs, ys = np.asarray(polygon[::2], dtype=float), np.asarray(polygon[1::2], dtype=float)
    return float(abs(np.dot(xs, np.roll(ys, -1)) - np.dot(ys, np.roll(xs, -1))) / 2)


def mask_rle(mask: np.ndarray) -> dict[str, Any]:
    """The RLE of a mask `[H, W]`, in which all but 0 belongs to it, with counts as text."""
    return _written(coco_mask.encode(np.asfortranarray(mask != 0, dtype=np.uint8)))


def polygons_rle(
    polygons: Sequence[Sequence[float]], size: tuple[int, int], holes: Sequence[Sequence[float]] = ()
) -> dict[str, Any]:
    """The RLE of polygons without what lies in `holes`."""
    rles = coco_mask.frPyObjects([list(p) for p in polygons], *size)
    filled = coco_mask.merge(rles)
    if holes:
        out = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([list(h) for h in holes], *size)))
        return mask_rle(coco_mask.decode(filled) * (out == 0))
    return _written(filled)


def runs_rle(runs: Sequence[int], size: tuple[int, int]) -> dict[str, Any]:
    """The RLE of run lengths in columns, COCO's uncompressed form. ValueError if they do not fit."""
    counts = [int(run) for run in runs]
    if min(counts, default=-1) < 0 or sum(counts) != size[0] * size[1]:
        raise ValueError("RLE whose runs do not add up to its picture")
    return _written(coco_mask.frPyObjects({"size": list(size), "counts": counts}, *size))


def checked_rle(segmentation: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """A COCO RLE, compressed or not, of a picture of `size`. ValueError if it is none."""
    if list(segmentation.get("size") or ()) != list(size):
        raise ValueError("RLE of another size than its picture")
    counts = segmentation.get("counts")
    if isinstance(counts, str):
        if not counts.isascii():
            raise ValueError("RLE whose counts are no run lengths")
        return runs_rle(run_lengths(counts.encode("ascii")), size)
    if not isinstance(counts, list):
        raise ValueError("RLE without counts")
    return runs_rle(counts, size)


def pasted(mask: np.ndarray, left: int, top: int, size: tuple[int, int]) -> np.ndarray:
    """A small mask at its place in one of `size`; what leaves the picture is cut."""
    whole = np.zeros(size, dtype=np.uint8)
    height, width = mask.shape
    rows = slice(max(top, 0), max(top + height, 0))
    columns = slice(max(left, 0), max(left + width, 0))
    target = whole[rows, columns]
    source = mask[max(-top, 0) :, max(-left, 0) :][: target.shape[0], : target.shape[1]]
    target[:] = source != 0
    return whole


def rle_box(rle: dict[str, Any]) -> Box:
    """The box around a mask; the last pixel belongs to it."""
    x, y, width, height = coco_mask.toBbox(rle).tolist()
    return x, y, x + width, y + height


def rle_area(rle: dict[str, Any]) -> float:
    """Pixels of a mask."""
    return float(coco_mask.area(rle))


def unpack(text: Any, compressed: bool = False) -> bytes:
    """The bytes in a base64 text, unpacked with zlib if `compressed`. ValueError if too many or damaged."""
    if not isinstance(text, str) or len(text) > 2 * MAX_PACKED:
        raise ValueError("packed picture that is no text or too large")
    try:
        content = base64.b64decode(text, validate=False)
        if not compressed:
            return content
        unpacker = zlib.decompressobj()
        content = unpacker.decompress(content, MAX_PACKED)
    except (binascii.Error, zlib.error) as error:
        raise ValueError("packed picture that is damaged") from error
    if unpacker.unconsumed_tail:
        raise ValueError(f"packed picture of more than {MAX_PACKED} bytes")
    return content


def packed_mask(content: bytes) -> np.ndarray:
    """The mask bool `[H, W]` in the bytes of a PNG: what is not transparent, else what is not 0."""
    try:
        with PIL.Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"mask of more than {MAX_PIXELS} pixels")
            if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
                return np.asarray(image.convert("RGBA").getchannel("A")) > 0
            pixels = np.asarray(image)
    except (OSError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        raise ValueError("mask that is no PNG") from error
    return (pixels if pixels.ndim == 2 else pixels.max(axis=2)) > 0


def packed_suffix(content: bytes) -> str:
    """The suffix for a picture given as bytes. ValueError if it is none or too large."""
    try:
        with PIL.Image.open(io.BytesIO(content), formats=IMAGE_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"picture of more than {MAX_PIXELS} pixels")
            return {"JPEG": ".jpg", "TIFF": ".tif"}.get(str(image.format), f".{str(image.format).lower()}")
    except (OSError, SyntaxError, PIL.Image.DecompressionBombError, DataError) as error:
        raise ValueError("packed picture in no known format") from error


def _written(rle: dict[str, Any]) -> dict[str, Any]:
    """An RLE as JSON can hold it."""
    counts = rle["counts"]
    return {
        "size": [int(side) for side in rle["size"]],
        "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts,
    }
