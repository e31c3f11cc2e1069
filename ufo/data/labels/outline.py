"""Masks as polygons, for label tools whose users move points: outlines along the pixels' edges, made simpler.

A polygon is off by at most `TOLERANCE`. Holes have no place in a polygon: they are filled, and counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ufo.data.labels.shapes import area, flat

TOLERANCE = 0.5
"""Pixels between an outline and its simpler form."""
SMALLEST = 4.0
"""Square pixels of the smallest part of a mask that becomes a polygon, beside the largest one."""

Point = tuple[int, int]


def outlines(mask: np.ndarray, tolerance: float = TOLERANCE) -> tuple[list[list[float]], int]:
    """The outer polygons of a mask `[H, W]`, the largest first, and how many holes were filled."""
    outer, holes = [], 0
    for ring in _rings(mask != 0):
        if _signed_area(ring) > 0:
            outer.append(flat(_simple(ring, tolerance)))
        else:
            holes += 1
    outer = sorted((p for p in outer if len(p) >= 6), key=area, reverse=True)
    return [p for k, p in enumerate(outer) if not k or area(p) >= SMALLEST], holes


def _rings(mask: np.ndarray) -> list[list[Point]]:
    """Closed walks along the edges between inside and outside, with the inside on the right."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    sides = (  # the neighbour that is outside, and the edge of a pixel at (0, 0)
        (padded[:-2, 1:-1], (0, 0), (1, 0)),
        (padded[1:-1, 2:], (1, 0), (1, 1)),
        (padded[2:, 1:-1], (1, 1), (0, 1)),
        (padded[1:-1, :-2], (0, 1), (0, 0)),
    )
    edges: dict[Point, list[Point]] = {}
    for neighbour, start, end in sides:
        for y, x in np.argwhere(inside & ~neighbour).tolist():
            edges.setdefault((x + start[0], y + start[1]), []).append((x + end[0], y + end[1]))
    rings = []
    while edges:
        first = next(iter(edges))
        ring, at, before = [first], _take(edges, first, None), first
        while at != first:
            ring.append(at)
            at, before = _take(edges, at, before), at
        rings.append(ring)
    return rings


def _take(edges: dict[Point, list[Point]], at: Point, before: Point | None) -> Point:
    """The end of an edge that begins at a point; of two the one to the right, so that corners part pixels."""
    ends = edges[at]
    if len(ends) > 1 and before is not None:
        dx, dy = at[0] - before[0], at[1] - before[1]
        right = (at[0] - dy, at[1] + dx)
        end = right if right in ends else ends[0]
    else:
        end = ends[0]
    ends.remove(end)
    if not ends:
        del edges[at]
    return end


def _signed_area(ring: Sequence[Point]) -> float:
    """Positive for an outer ring: clockwise, as seen in the picture."""
    xs, ys = np.array(ring, dtype=float).T
    return float(np.dot(xs, np.roll(ys, -1)) - np.dot(ys, np.roll(xs, -1))) / 2


def _simple(ring: list[Point], tolerance: float) -> list[tuple[float, float]]:
    """The ring with as few of its points as the tolerance allows (Douglas and Peucker)."""
    points = np.array([*ring, ring[0]], dtype=float)
    far = int(((points - points[0]) ** 2).sum(axis=1).argmax())
    kept = {0, far, len(points) - 1}
    parts = [(0, far), (far, len(points) - 1)]
    while parts:
        first, last = parts.pop()
        if last - first < 2:
            continue
        start, step = points[first], points[last] - points[first]
        length = float(np.hypot(*step))
        between = points[first + 1 : last] - start
        away = (
            np.abs(step[0] * between[:, 1] - step[1] * between[:, 0]) / length
            if length
            else np.hypot(between[:, 0], between[:, 1])
        )
        worst = int(away.argmax())
        if away[worst] > tolerance:
            middle = first + 1 + worst
            kept.add(middle)
            parts += [(first, middle), (middle, last)]
    chosen = sorted(kept)[:-1]
    return [(float(points[k][0]), float(points[k][1])) for k in chosen]
