"""Shapes and textures for generated scenes: what is drawn beside the digits so that words mean more.

A shape is a list of polygons, each filled or cut out of those before it, in a square from -1 to 1. A texture
changes a colour from pixel to pixel. Arrays are float: coverage [h, w] in 0..1, colours [h, w, 3] in 0..255.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

_FINE = 4  # pixels of a drawn polygon per pixel of the result
_EDGE = 2  # pixels around a shape: room for its outline

Polygon = np.ndarray  # [K, 2]
Parts = list[tuple[Polygon, bool]]  # with whether it is filled, else cut out


def _regular(corners: int, turn: float = 0.0, radius: float = 1.0) -> Polygon:
    angle = np.arange(corners) * 2 * np.pi / corners + turn - np.pi / 2
    return radius * np.stack([np.cos(angle), np.sin(angle)], 1)


def _star(inner: float = 0.42) -> Polygon:
    points = np.empty((10, 2))
    points[::2], points[1::2] = _regular(5), _regular(5, np.pi / 5, inner)
    return points


def _heart() -> Polygon:
    t = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x, y], 1) / 17


def _cross(arm: float = 0.34) -> Polygon:
    a = arm
    outline = [
        (-a, -1),
        (a, -1),
        (a, -a),
        (1, -a),
        (1, a),
        (a, a),
        (a, 1),
        (-a, 1),
        (-a, a),
        (-1, a),
        (-1, -a),
    ]
    return np.array([*outline, (-a, -a)])


_ARROW = np.array([(-1, -0.3), (0.1, -0.3), (0.1, -0.8), (1, 0), (0.1, 0.8), (0.1, 0.3), (-1, 0.3)])
_SQUARE = np.array([(-1.0, -1.0), (1, -1), (1, 1), (-1, 1)])
_ROUND = _regular(48)

SHAPES: dict[str, tuple[Parts, float]] = {  # the parts, and how far it may be turned, in degrees
    "circle": ([(_ROUND, True)], 0),
    "oval": ([(_ROUND * (1, 0.55), True)], 180),
    "ring": ([(_ROUND, True), (_ROUND * 0.55, False)], 0),
    "crescent": ([(_ROUND, True), (_ROUND * 0.85 + (0.5, 0), False)], 180),
    "square": ([(_SQUARE, True)], 15),
    "rectangle": ([(_SQUARE * (1, 0.5), True)], 180),
    "diamond": ([(_regular(4) * (0.75, 1), True)], 12),
    "triangle": ([(_regular(3), True)], 30),
    "hexagon": ([(_regular(6), True)], 30),
    "star": ([(_star(), True)], 36),
    "cross": ([(_cross(), True)], 15),
    "heart": ([(_heart(), True)], 30),
    "arrow": ([(_ARROW, True)], 180),
}
MORE_COLORS: dict[str, tuple[int, int, int]] = {
    "pink": (250, 130, 190),
    "brown": (125, 75, 35),
    "gray": (130, 130, 130),
    "black": (22, 22, 22),
}


def draw_shape(name: str, height: float, angle: float, aspect: float) -> tuple[np.ndarray, np.ndarray]:
    """Coverage of a shape and of the shape with its outline; `height` pixels high before it is turned."""
    parts, _ = SHAPES[name]
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    turn = np.array([[cos, -sin], [sin, cos]]) @ np.diag([aspect, 1.0]) * height / 2
    turned = [(points @ turn.T, filled) for points, filled in parts]
    low, high = turned[0][0].min(0), turned[0][0].max(0)
    width, rows = (int(n) for n in np.ceil(high - low).astype(int) + 2 * _EDGE)
    canvas = Image.new("L", (width * _FINE, rows * _FINE))
    for points, filled in turned:
        placed = (points - (low + high) / 2) * _FINE + np.array([width, rows]) * _FINE / 2
        ImageDraw.Draw(canvas).polygon([tuple(p) for p in placed], fill=255 * filled)
    small = canvas.reduce(_FINE)
    wide = small.filter(ImageFilter.MaxFilter(3))  # a pixel to each side
    return np.asarray(small, np.float32) / 255, np.asarray(wide, np.float32) / 255


# ---------------------------------------------------------------- textures


def _coordinates(
    rng: np.random.Generator, size: tuple[int, ...], period: float
) -> tuple[np.ndarray, np.ndarray]:
    """Turned and shifted coordinates in units of a period, each [h, w]."""
    y, x = np.mgrid[: size[0], : size[1]] / period
    angle, shift = rng.uniform(0, np.pi), rng.random(2)
    return np.cos(angle) * x + np.sin(angle) * y + shift[0], np.cos(angle) * y - np.sin(angle) * x + shift[1]


def _striped(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return u % 1 < 0.5


def _checkered(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return (u % 1 < 0.5) ^ (v % 1 < 0.5)


def _dotted(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.hypot(u % 1 - 0.5, v % 1 - 0.5) < 0.3


TEXTURES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "striped": _striped,
    "checkered": _checkered,
    "dotted": _dotted,
}


def textured(rng: np.random.Generator, color: np.ndarray, size: tuple[int, ...]) -> tuple[str, np.ndarray]:
    """A texture's name ("" for the half without one) and the colour `[3]` with it, `[h, w, 3]`."""
    even = np.broadcast_to(color, (*size, 3)) + rng.normal(0, rng.uniform(0, 9), (*size, 1))
    if rng.random() < 0.5 or min(size) < 14:  # too small to be seen
        return "", even
    name = str(rng.choice(list(TEXTURES)))
    pattern = TEXTURES[name](*_coordinates(rng, size, max(rng.uniform(0.2, 0.35) * max(size), 5.0)))
    bright = float(color.mean()) > 110
    other = color * rng.uniform(0.15, 0.4) if bright else color + (255 - color) * rng.uniform(0.6, 0.85)
    return name, np.where(pattern[..., None], other, even)
