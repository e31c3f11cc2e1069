"""One image's answer against its truth, in numbers: what a report counts, and filters its pictures by.

Shapes: `N` predicted and `M` annotated objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

NOTHING = "nothing"
MISSED, DOUBLE, WRONG, POOR, EXTRA = "missed", "double", "wrong class", "poor box", "nothing there"
"""What can be wrong with an object: not found, found twice, under another name, too far off, not there."""
WEAK = "weak answer"
"""What can be wrong with an answer that is no object."""

GOOD = 0.5  # IoU, or score of an answer, from which it counts as right
NEAR = 0.1  # IoU from which a prediction is about an object at all
SIZES = (("small", 32**2), ("medium", 96**2), ("large", float("inf")))
"""COCO's sizes, by area in pixels."""


@dataclass
class Compared:
    """What one image adds to a report. Names are those of classes."""

    # name, score, right: of every prediction
    said: list[tuple[str, float, bool]] = field(default_factory=list)
    # name, size, found: of every annotated object
    there: list[tuple[str, str, bool]] = field(default_factory=list)
    # annotated name, predicted name, weight
    pairs: list[tuple[str, str, float]] = field(default_factory=list)
    # what is wrong, name
    faults: list[tuple[str, str]] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """The classes that this image is about."""
        there = [name for name, *_ in self.there]
        return sorted({*there, *(name for _, name in self.faults)} - {NOTHING})


def compare_objects(
    found: Sequence[Any],
    scores: Sequence[float],
    names: Sequence[str],
    truth: Sequence[Any],
    true_names: Sequence[str],
    areas: Sequence[float],
    crowds: Sequence[bool],
    certain: float,
) -> Compared:
    """Match objects greedily, the best score first, each annotated one once.

    Args:
        found, truth: N and M boxes `[x, y, width, height]`, or RLE.
        certain: predictions below it are no faults, as a picture does not show them.
    """
    result = Compared()
    overlap = np.zeros((len(found), len(truth)))
    if len(found) and len(truth):
        overlap = np.asarray(coco_mask.iou(list(found), list(truth), [int(c) for c in crowds]))
    taken: dict[int, int] = {}  # annotated object -> prediction
    for i in sorted(range(len(found)), key=lambda i: -scores[i]):
        match = _match(overlap[i], names[i], true_names, taken, crowds)
        if match is not None and crowds[match]:
            continue  # a crowd takes any number, and none counts
        result.said.append((names[i], scores[i], match is not None))
        if match is not None:
            taken[match] = i
        elif scores[i] >= certain:
            result.faults.append((_fault(overlap[i], names[i], true_names, taken), names[i]))
    for j, name in enumerate(true_names):
        if crowds[j]:
            continue
        seen = j in taken and scores[taken[j]] >= certain
        size = next(size for size, most in SIZES if areas[j] < most)
        result.there.append((name, size, seen))
        near = [i for i in range(len(found)) if overlap[i, j] >= GOOD and scores[i] >= certain]
        other = names[max(near, key=lambda i: scores[i])] if near else NOTHING
        result.pairs.append((name, name if seen else other, 1.0))
        if not seen:
            result.faults.append((MISSED, name))
    extra = [n for what, n in result.faults if what == EXTRA]
    result.pairs += [(NOTHING, name, 1.0) for name in extra]
    return result


def _match(
    overlap: np.ndarray, name: str, true_names: Sequence[str], taken: dict[int, int], crowds: Sequence[bool]
) -> int | None:
    """The annotated object that a prediction finds, if any."""
    free = [
        j
        for j, other in enumerate(true_names)
        if other == name and (j not in taken or crowds[j]) and overlap[j] >= GOOD
    ]
    return max(free, key=lambda j: (not crowds[j], overlap[j]), default=None)


def _fault(overlap: np.ndarray, name: str, true_names: Sequence[str], taken: dict[int, int]) -> str:
    """What is wrong with a prediction that finds nothing."""
    best = int(overlap.argmax()) if len(overlap) else -1
    if best < 0 or overlap[best] < NEAR:
        return EXTRA
    if overlap[best] < GOOD:
        return POOR
    if any(overlap[j] >= GOOD and other == name for j, other in enumerate(true_names) if j in taken):
        return DOUBLE
    return WRONG
