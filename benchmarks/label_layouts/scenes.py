"""What is to be seen in a picture, before a label tool writes it down."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Thing:
    """An object: its class, its box x1, y1, x2, y2 in pixels, and its outline x1, y1, x2, y2, ..., if any."""

    label: str
    box: tuple[float, float, float, float]
    polygon: list[float] = field(default_factory=list)

    @property
    def points(self) -> list[list[float]]:
        """The outline as [x, y] pairs."""
        return [list(pair) for pair in zip(self.polygon[::2], self.polygon[1::2], strict=True)]

    @property
    def place(self) -> tuple[float, float, float, float]:
        """x, y, width, height of the box."""
        x1, y1, x2, y2 = self.box
        return x1, y1, x2 - x1, y2 - y1


@dataclass(frozen=True)
class Scene:
    """A picture: its file name, its size (height, width), its objects, and what writes it to a path.

    `split` is train or val, or empty where the labels say nothing about it.
    """

    name: str
    size: tuple[int, int]
    things: list[Thing]
    save: Callable[[Path], object]
    split: str = ""

    @property
    def stem(self) -> str:
        return Path(self.name).stem

    def picture(self, folder: Path) -> Path:
        """Write the picture into a folder, which is made if it is not there."""
        folder.mkdir(parents=True, exist_ok=True)
        self.save(folder / self.name)
        return folder / self.name


def by_split(scenes: Sequence[Scene]) -> dict[str, list[Scene]]:
    """The scenes of each split, in the order of their first ones."""
    found: dict[str, list[Scene]] = {}
    for scene in scenes:
        found.setdefault(scene.split, []).append(scene)
    return found


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def dump(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content))
