"""Monotone maps from scores to probabilities, fitted by isotonic regression (calibration).

A map is a line through points that rise in both directions, from (0, 0) to (1, 1): it never falls and is
nowhere level, so an order of scores, and with it AP, stays what it is. Shapes: `N` predictions, `P` points.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Points = list[list[float]]
"""(score, probability) of P points, both rising."""

_MOST = 1000  # points of a map that is read
_STEEP = 1e-3
"""The least slope: scores that differ a little must not become one in float32."""


def fit_monotone(scores: Tensor, right: Tensor, group: int = 25) -> Points:
    """The map under which scores are the share of predictions that are right.

    Predictions are taken together in groups of similar scores, isotonic regression joins groups until the
    shares rise (pool adjacent violators), and the line goes through the middle of what was joined.

    Args:
        scores: float `[N]` in 0..1.
        right: bool `[N]`, whether each prediction is.
        group: the least number of predictions of a group; equal scores are never parted.
    """
    from sklearn.isotonic import isotonic_regression  # few ask for it, and it is slow to import

    order = scores.argsort(stable=True)
    sorted_scores, hits = scores[order].double().cpu(), right[order].double().cpu()
    ends = _groups(sorted_scores, group)
    counts = torch.tensor([end - begin for begin, end in zip([0, *ends], ends, strict=False)])
    means = torch.stack([part.mean() for part in sorted_scores.split(counts.tolist())])
    shares = torch.stack([part.mean() for part in hits.split(counts.tolist())])
    fitted = torch.from_numpy(isotonic_regression(shares.numpy(), sample_weight=counts.double().numpy()))
    least = 0.5 / (len(scores) + 1)  # that all of some predictions are right does not say that all ever are
    points = []
    for value in fitted.unique():
        joined = fitted == value
        score = float((means * counts)[joined].sum() / counts[joined].sum())
        score, share = min(max(score, 0.0), 1.0), min(max(float(value), least), 1 - least)
        points.append([score, (1 - _STEEP) * share + _STEEP * score])
    begin = [[0.0, 0.0]] if points[0][0] > 0 else []
    return [*begin, *points, *([[1.0, 1.0]] if points[-1][0] < 1 else [])]


def _groups(scores: Tensor, size: int) -> list[int]:
    """Where each group of sorted scores `[N]` ends; it has at least `size` of them."""
    ends: list[int] = []
    count, values = 0, scores.tolist()
    for number, score in enumerate(values, start=1):
        count += 1
        if count >= size and (number == len(values) or values[number] != score):
            ends.append(number)
            count = 0
    if count:  # too few are left for a group of their own
        ends[-1:] = [len(values)]
    return ends


def apply_monotone(points: Points, scores: Tensor) -> Tensor:
    """Scores float `[N]` under a map: probabilities of the same type, which rise with the scores."""
    table = torch.tensor(points, dtype=torch.float64, device=scores.device)  # [P, 2]
    x, y = table.unbind(1)
    value = scores.double().clamp(0, 1)
    right = torch.searchsorted(x.contiguous(), value).clamp(1, len(table) - 1)
    left = right - 1
    part = (value - x[left]) / (x[right] - x[left])
    return (y[left] + part * (y[right] - y[left])).to(scores.dtype)


def check_monotone(points: Any) -> None:
    """Raises ValueError where something read from a file is no such map."""
    rows = points if isinstance(points, Sequence) and not isinstance(points, str) else []
    pairs = [row for row in rows if isinstance(row, Sequence) and len(row) == 2]
    numbers = [v for row in pairs for v in row if isinstance(v, int | float) and math.isfinite(v)]
    if not 2 <= len(rows) <= _MOST or len(numbers) != 2 * len(rows):
        raise ValueError(f"a map of scores is a list of 2 to {_MOST} pairs of numbers")
    rises = all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(pairs))
    if not rises or pairs[0][0] != 0 or pairs[-1][0] != 1 or pairs[0][1] < 0 or pairs[-1][1] > 1:
        raise ValueError("a map of scores rises in both of its numbers, from a score of 0 to one of 1")
