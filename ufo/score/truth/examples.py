"""What a prediction is compared with: one example per image, or per expression about an image.

Boxes are COCO's own `[x, y, width, height]` in pixels, in the double precision of the file, so that numbers
equal those of evaluators that read the file themselves. Masks are RLE, made when they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ufo.data.datasets.segmentations import RLE, Segmentations, empty_rle

Id = int | str
NO_MASKS: Callable[[], list[RLE]] = list


@dataclass
class Example:
    """One image, or one expression about it."""

    image: Id
    names: tuple[str, ...]  # what else the image is called: its file
    size: tuple[int, int] | None  # (height, width); None: the annotations do not say
    text: str = ""
    id: Id | None = None  # of the sentence, where the annotations number them
    boxes: list[list[float]] = field(default_factory=list)  # M
    labels: list[int] = field(default_factory=list)  # M
    crowd: list[bool] = field(default_factory=list)  # M
    areas: list[float] = field(default_factory=list)  # M
    no_mask: frozenset[int] = frozenset()  # places of the objects that have no usable mask
    masks: Callable[[], list[RLE]] = NO_MASKS  # M
    ignore: RLE | None = None  # pixels that do not count
    sentence: bool | None = None
    map: Path | None = None  # the label map

    def __str__(self) -> str:
        return f'"{self.text}" in image {self.image}' if self.text else f"image {self.image}"


@dataclass
class Truth:
    """The annotations of a file or folder."""

    path: Path
    examples: list[Example]
    classes: tuple[str, ...] = ()
    categories: dict[Any, int] = field(default_factory=dict)  # a file's category id -> label
    expressions: bool = False  # examples are expressions
    lines: bool = False  # their ids are those of lines, which no prediction needs to know
    generalized: bool = False  # some may mean nothing, or several objects
    boxes: bool = True
    masks: bool = True
    numbers: tuple[int, ...] = ()  # of the classes in label maps
    remarks: list[str] = field(default_factory=list)


def encode(segmentations: Sequence[Any], size: tuple[int, int]) -> list[RLE]:
    """COCO segmentations (polygons, RLE) of one image as RLE; what is unusable is empty."""
    found = Segmentations()
    for segmentation in segmentations:
        found.append(segmentation, size)
    return [found.rle(i, size) or empty_rle(size) for i in range(len(found))]
