"""Curves and tables of the counts in `evidence.json`.

Shapes: `S` steps of a score from 0 to 1; `said` holds, by class, how many predictions of each step were wrong
and how many right.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

CERTAIN = 0.3  # the score from which precision is told, as pictures show objects
BINS = 10  # of a calibration curve
Points = list[tuple[float, float]]


def annotated(source: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """By class, found and annotated objects, the most frequent class first."""
    counts = {
        name: tuple(np.array(list(sizes.values()), dtype=int).reshape(-1, 2).sum(0).tolist())
        for name, sizes in source.get("there", {}).items()
    }
    return dict(sorted(counts.items(), key=lambda item: -item[1][1]))


def by_size(source: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """By size, found and annotated objects; empty where sizes are not told apart."""
    counts: dict[str, list[int]] = {}
    for sizes in source.get("there", {}).values():
        for size, (found, all_of_them) in sizes.items():
            total = counts.setdefault(size, [0, 0])
            total[0] += found
            total[1] += all_of_them
    order = [size for size in ("small", "medium", "large") if size in counts]
    return {size: (counts[size][0], counts[size][1]) for size in order}


def precision_recall(said: Any, number: int) -> Points:
    """(recall, precision) at each score, the highest score first, of `number` annotated objects."""
    wrong, right = np.asarray(said, dtype=float)[:, ::-1].cumsum(1)
    told = (wrong + right > 0) & (number > 0)
    recall, precision = right[told] / max(number, 1), right[told] / (wrong + right)[told]
    pairs = np.stack([recall, precision], 1)
    changed = np.r_[True, (np.abs(np.diff(pairs, axis=0)) > 1e-9).any(1)] if len(pairs) else []
    return [(float(r), float(p)) for r, p in pairs[changed]]


def average_precision(points: Points) -> float | None:
    """The area under the curve, where precision is the best at that recall or above; None without points."""
    if not points:
        return None
    recall = np.array([0.0, *(r for r, _ in points)])
    precision = np.maximum.accumulate(np.array([p for _, p in points])[::-1])[::-1]
    return float((np.diff(recall) * precision).sum())


def total(said: Mapping[str, Any]) -> np.ndarray | None:
    """The counts `[2, S]` of all classes; None where nothing has a score."""
    counts = [np.asarray(found, dtype=float) for found in said.values()]
    return sum(counts[1:], counts[0]) if counts else None


def calibration(counts: np.ndarray) -> Points:
    """(mean score, share that is right) in each of `BINS` bins that holds a prediction."""
    steps = counts.shape[1]
    middles = (np.arange(steps) + 0.5) / steps
    points = []
    for part in np.array_split(np.arange(steps), BINS):
        number = counts[:, part].sum()
        if number:
            score = (counts[:, part].sum(0) * middles[part]).sum() / number
            points.append((float(score), float(counts[1, part].sum() / number)))
    return points


def precision(said: Any) -> tuple[int, int]:
    """Right and all predictions with at least `CERTAIN`."""
    counts = np.asarray(said, dtype=int)
    kept = counts[:, round(CERTAIN * counts.shape[1]) :].sum(1)
    return int(kept[1]), int(kept.sum())
