"""What every label tool says about its pictures, in one form: boxes, shapes, words, maps.

Boxes are x1, y1, x2, y2 in pixels of the original picture, counted from its left upper corner.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ufo.data.problems import Problems

Box = tuple[float, float, float, float]
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "eval": "val",
    "evaluation": "val",
    "test": "test",
    "testing": "test",
}
"""What tools call their splits."""


@dataclass
class Thing:
    """One object: its class, and where it is: a box, polygons (x1, y1, x2, y2, ...) or a mask as RLE."""

    label: str
    box: Box | None = None
    polygons: list[list[float]] = field(default_factory=list)
    rle: dict[str, Any] | None = None  # compressed, of the picture's size
    crowd: bool = False  # neither found nor missed
    text: str = ""  # what refers to this object alone
    score: float | None = None  # of a prediction
    where: str = ""  # its place in the tool's files, for messages


@dataclass
class Picture:
    """One picture that is there and can be read."""

    path: Path
    size: tuple[int, int]  # height, width: of the two that its EXIF data allow the one that was labelled
    split: str = ""  # train, val, test, or empty if the tool has none
    things: list[Thing] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    class_map: Callable[[], np.ndarray] | None = None  # gives uint8 [H, W], numbers of `Labels.map_classes`
    labelled: bool = True  # False: the tool has no word on it


@dataclass
class Labels:
    """All that one folder or file of a tool holds."""

    pictures: list[Picture]
    problems: Problems
    classes: list[str] = field(default_factory=list)  # in the tool's own order
    map_classes: list[str] = field(default_factory=list)  # of the class maps, by number
    notes: list[str] = field(default_factory=list)  # what was chosen where a tool leaves it open

    def add_class(self, name: str) -> None:
        """A class that the tool's own list does not have, or that has no list: behind the others."""
        if name not in self.classes:
            self.classes.append(name)


def split_of(name: str) -> str:
    """The split that a folder or file is called after (`valid`, `instances_val2017`), or an empty text."""
    words = name.lower().replace("-", "_").replace(".", "_").split("_")
    found = {SPLITS[word.rstrip("0123456789")] for word in words if word.rstrip("0123456789") in SPLITS}
    return found.pop() if len(found) == 1 else ""
