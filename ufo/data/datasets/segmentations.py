"""COCO segmentations (polygons, RLE, uncompressed RLE) kept compactly and decoded when asked for.

All coordinates lie in one flat array and all run lengths in one byte string, so a large file costs
its numbers and not a Python object for each of them, and forked workers share it.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

RLE = dict[str, Any]  # {"size": [h, w], "counts": bytes}, what pycocotools calls a compressed RLE

_NONE, _POLYGONS, _RLE = 0, 1, 2
PIECE = 255  # masks whose areas pycocotools computes at a time
ARRAYS = ("kinds", "starts", "ends", "parts", "coordinates", "counts")
_REACH = 4  # polygons may leave their image by this many image sizes; further ones are garbage


class Segmentations:
    """A list of segmentations; `append` checks the form, `rle` yields the mask."""

    def __init__(self) -> None:
        self.lost = 0  # parts of the last one that are no polygons, beside others that are
        self._kinds = array("b")
        self._starts = array("q")  # into _parts (polygons) or _counts (RLE)
        self._parts = array("q", [0])  # ends of the polygons in _coordinates
        self._coordinates = array("d")  # double, so that masks equal pycocotools' own bit by bit
        self._counts = bytearray()
        self._ends = array("q")

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Segmentations:
        """The list whose arrays are these, to read from: see `arrays`."""
        kept = cls()
        for name in ARRAYS:
            setattr(kept, f"_{name}", arrays[f"masks.{name}"])
        return kept

    def arrays(self, order: np.ndarray) -> dict[str, np.ndarray]:
        """All there is as flat arrays, the segmentations in the given order."""
        found = {name: np.asarray(getattr(self, f"_{name}")) for name in ARRAYS}
        found["counts"] = np.frombuffer(self._counts, dtype=np.uint8)
        return {f"masks.{n}": a[order] if n in ("kinds", "starts", "ends") else a for n, a in found.items()}

    def __len__(self) -> int:
        return len(self._kinds)

    def append(self, segmentation: Any, size: tuple[int, int]) -> str | None:
        """Store one segmentation of an image of `size` (height, width).

        Returns None, or what is wrong with it; then nothing but its place in the list is kept.
        """
        parts, coordinates = len(self._parts), len(self._coordinates)
        counts, problem, self.lost = len(self._counts), None, 0
        try:
            kind = self._add(segmentation, size)
        except (TypeError, ValueError, OverflowError, KeyError) as error:
            kind = _NONE
            problem = str(error) if isinstance(error, _Unusable) else "unreadable segmentation"
            del self._parts[parts:], self._coordinates[coordinates:]
        self._kinds.append(kind)
        self._starts.append(counts if kind == _RLE else parts - 1)
        self._ends.append(len(self._counts) if kind == _RLE else len(self._parts) - 1)
        return problem

    def _add(self, segmentation: Any, size: tuple[int, int]) -> int:
        """Store polygons or an RLE and return which; raises an error on anything else."""
        if not segmentation:
            raise _Unusable("no segmentation")
        if not isinstance(segmentation, (list, dict)):
            raise TypeError
        if isinstance(segmentation, dict):
            self._counts += _checked_counts(segmentation, size)
            return _RLE
        if isinstance(segmentation[0], dict):  # several RLE parts, as in RefCLEF
            rles = [{"size": size, "counts": _checked_counts(p, size)} for p in segmentation]
            self._counts += coco_mask.merge(rles)["counts"]
            return _RLE
        # pycocotools reads a list of four numbers as a box, so these must go before it sees them.
        polygons = [p for p in segmentation if len(p) >= 6 and len(p) % 2 == 0]
        if not polygons:
            raise _Unusable("polygon with fewer than three points")
        self.lost = len(segmentation) - len(polygons)
        low, high = -_REACH * max(size), (_REACH + 1) * max(size)
        for polygon in polygons:
            # "not all" also catches NaN; far points make pycocotools allocate without bound
            if not all(low <= x <= high for x in polygon):
                raise _Unusable("polygon far outside its image")
            self._coordinates.extend(polygon)
            self._parts.append(len(self._coordinates))
        return _POLYGONS

    def rle(self, i: int, size: tuple[int, int]) -> RLE | None:
        """The mask of segmentation `i` as compressed RLE of `size` (h, w); None if it has none."""
        height, width = size
        if self._kinds[i] == _RLE:
            counts = bytes(self._counts[self._starts[i] : self._ends[i]])
            return {"size": [height, width], "counts": counts}
        if self._kinds[i] == _NONE:
            return None
        ends = self._parts[self._starts[i] : self._ends[i] + 1]
        polygons = [self._coordinates[a:b].tolist() for a, b in pairwise(ends)]
        return coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))


def missing(kinds: np.ndarray) -> np.ndarray:
    """bool [n]: which of some segmentations, by their `kinds` among the arrays, are unusable."""
    return kinds == _NONE


class _Unusable(ValueError):
    """What is wrong with a segmentation, in words for the log."""


def _checked_counts(segmentation: dict[str, Any], size: tuple[int, int]) -> bytes:
    """Compressed counts of an RLE of an image of `size`, whose form is checked.

    The sum matters: pycocotools leaves pixels beyond the last run uninitialised.
    """
    if [int(side) for side in segmentation["size"]] != list(size):
        raise _Unusable("RLE of another size than its image")
    counts = segmentation["counts"]
    if isinstance(counts, str):
        counts = counts.encode("ascii")
    compressed = isinstance(counts, bytes)
    runs = run_lengths(counts) if compressed else [int(run) for run in counts]
    if min(runs, default=0) < 0 or sum(runs) != size[0] * size[1]:
        raise _Unusable("RLE whose runs do not add up to its image")
    if compressed:
        return counts
    return coco_mask.frPyObjects({"size": list(size), "counts": runs}, *size)["counts"]


def run_lengths(counts: bytes) -> list[int]:
    """Run lengths of compressed RLE counts (COCO's variable-length difference coding).

    Raises ValueError on anything that is not such a string. A plain loop on purpose: on the usual
    string of 50 characters it is faster than the dozen numpy calls it would take.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        digit = character - 48
        if not 0 <= digit < 64 or shift > 40:
            raise _Unusable("RLE whose counts can't be read")
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:  # another digit of the same number follows
            continue
        if digit & 16:
            value -= 1 << shift
        # From the fourth number on, each is a difference to the one two before it.
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift or not runs:
        raise _Unusable("RLE whose counts can't be read")
    return runs


def empty_rle(size: tuple[int, int]) -> RLE:
    """The RLE of a mask of `size` (height, width) without a single pixel."""
    height, width = size
    counts = coco_mask.frPyObjects({"size": [height, width], "counts": [height * width]}, *size)
    return {"size": [height, width], "counts": counts["counts"]}


def encode_mask(mask: Tensor) -> RLE:
    """The RLE of a mask `[H, W]`, all but 0 belongs to it."""
    return coco_mask.encode(np.asfortranarray(mask.numpy() != 0, dtype=np.uint8))


def areas(rles: Sequence[RLE]) -> np.ndarray:
    """Pixels of each mask, int64 [N]. In pieces: with NumPy 2 pycocotools counts the masks in a byte."""
    parts = [coco_mask.area(list(rles[k : k + PIECE])) for k in range(0, len(rles), PIECE)]
    return np.concatenate([np.zeros(0, np.int64), *(part.astype(np.int64) for part in parts)])


def fill_box(mask: Tensor, box: np.ndarray) -> None:
    """Mark the pixels of a box xyxy in a mask `[H, W]`: all that is known of an object without a mask."""
    left, top = np.floor(box[:2]).clip(0).astype(int)
    right, bottom = np.ceil(box[2:]).clip(0).astype(int)
    mask[top:bottom, left:right] = 1


def decode_masks(rles: Sequence[RLE], size: tuple[int, int]) -> Tensor:
    """uint8 [N, H, W] of N RLE masks of one image of `size` (height, width)."""
    if not rles:
        return torch.zeros((0, *size), dtype=torch.uint8)
    return torch.from_numpy(coco_mask.decode(list(rles))).permute(2, 0, 1).contiguous()
