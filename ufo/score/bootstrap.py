"""Intervals of metrics and a paired test, by drawing the images anew (with replacement).

Images are drawn and not expressions or objects, as those of one image are alike: that gives honest, wider
intervals. Two prediction files are compared on the same draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """The ends of the middle 95 % of the resamples; NaN where they do not define the metric."""

    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """How much the other predictions are better, its interval, and how likely chance alone does that."""

    value: float
    interval: Interval
    p: float


def draw(images: int, resamples: int, seed: int) -> Tensor:
    """How often each of `resamples` draws of n images holds each of the n: float64 `[R, n]`."""
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(images, np.full(images, 1 / images), size=resamples)
    return torch.from_numpy(counts).double()


def intervals(values: Mapping[str, float], resampled: Mapping[str, Tensor]) -> dict[str, Interval]:
    """The interval of each metric of resampled values `[R]`; metrics lie between 0 and 1."""
    found = {}
    for name, draws in resampled.items():
        ends = interval(values[name], draws)
        found[name] = Interval(min(max(ends.low, 0.0), 1.0), min(max(ends.high, 0.0), 1.0))
    return found


def centred(value: float, draws: Tensor) -> Tensor:
    """The draws that define the metric, moved so that their mean is the measured value.

    AP of draws is higher on average than AP of the images, since a draw repeats some of them; without this
    the interval of many rare classes may not hold the value at all. Where metrics are means it changes
    nothing.
    """
    defined = draws[~draws.isnan()]
    return defined + (value - defined.mean()) if len(defined) else defined


def interval(value: float, draws: Tensor) -> Interval:
    """The middle of resampled values `[R]` around the measured one."""
    defined = centred(value, draws)
    if not len(defined) or math.isnan(value):
        return Interval(math.nan, math.nan)
    low, high = np.quantile(defined.numpy(), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def compare(value: float, other: float, resampled: Tensor, others: Tensor) -> Difference:
    """Two predictions on the same draws.

    The p value is two-sided: twice the share of draws in which the difference has the other sign, or is 0;
    NaN where no draw defines the metric.
    """
    difference = other - value
    draws = others - resampled
    found = centred(difference, draws)
    lower, upper = int((found <= 0).sum()), int((found >= 0).sum())
    p = min(1.0, 2 * (min(lower, upper) + 1) / (len(found) + 1)) if len(found) else math.nan
    return Difference(difference, interval(difference, draws), p)
