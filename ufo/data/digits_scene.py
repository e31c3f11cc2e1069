"""One generated scene: handwritten digits or shapes, coloured, turned and overlapping, on a photograph.

Everything random follows from the generator passed in. `S` is the side of the image in pixels:
image uint8 [S, S, 3] RGB, masks bool [N, S, S] (visible parts only), objects in painting order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.spatial import ConvexHull
from sklearn.datasets import load_digits, load_sample_images

from ufo.data.shapes_scene import MORE_COLORS, SHAPES, draw_shape, textured

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SEMANTIC_CLASSES = (*CLASSES, "photo")
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (225, 25, 35),
    "orange": (255, 135, 0),
    "yellow": (250, 230, 40),
    "green": (25, 165, 45),
    "cyan": (50, 220, 230),
    "blue": (30, 60, 230),
    "purple": (150, 40, 200),
    "white": (248, 248, 248),
}

# scikit-learn's samples are in the order in which the writers filled in their forms; every form
# starts with 0..9 three times, which shows its first sample (0, 130, ..., 1287, 1415, 1541, 1667).
# Whole forms, with one form left out in between, so that no writer is in both splits.
WRITERS = {"train": slice(0, 1287), "val": slice(1415, 1797)}

_UP = 12  # high-resolution pixels per pixel of the 8x8 sample
_PAD = 2  # empty pixels around the 8x8 sample: room for the interpolation and the outline
_BASE_SIZE = 112  # heights below are given for this image side and scale with it


@dataclass(frozen=True)
class Variant:
    """What differs between the digit scenes to learn from, the shifted ones to fine-tune on, and shapes."""

    count: tuple[int, ...]  # number of objects, each equally likely
    height: tuple[float, float]  # of the whole digit, in pixels of a 112-pixel image
    rotation: float  # degrees to either side
    tint: tuple[str, ...]  # how a colour's name becomes a colour
    backgrounds: tuple[str, ...]
    stream: int  # of random numbers; fixed, so that adding a variant leaves the others as they are
    classes: tuple[str, ...] = CLASSES
    colors: tuple[str, ...] = tuple(COLORS)
    noun: str = "digit"  # what any object may be called

    @property
    def semantic_classes(self) -> tuple[str, ...]:
        """The classes of pixels; the last one is the rest."""
        return (*self.classes, "photo")

    @property
    def shapes(self) -> bool:
        """Whether shapes with textures are drawn in place of digits."""
        return self.classes != CLASSES


VARIANTS = {
    "standard": Variant((2, 3, 4, 5), (20, 50), 20, ("pure",), ("photo",), 1),
    "shifted": Variant(
        (3, 4, 5, 6),
        (15, 34),
        30,
        ("pastel", "dark"),
        ("inverted", "toned", "gradient", "noise"),
        0,
    ),
    "shapes": Variant(
        (2, 3, 4, 5, 6),
        (13, 52),
        0,  # each shape says how far it may be turned
        ("pure", "pastel", "dark"),
        ("photo", "photo", "inverted", "toned", "gradient", "noise"),
        2,
        classes=tuple(SHAPES),
        colors=(*COLORS, *MORE_COLORS),
        noun="shape",
    ),
}
MIN_VISIBLE = 0.6  # share of an object's pixels that later objects must leave visible
_OVERLAP_REJECTED = 0.5  # share of overlapping placements drawn anew: about half the scenes overlap


@dataclass(frozen=True)
class Glyph:
    """One handwritten digit: ink as a smooth field, its level set `threshold` is the stroke."""

    digit: int
    field: Image.Image  # mode F, ink from 0 to 1
    threshold: float
    hull: np.ndarray  # [K, 2], convex hull (x, y) of the stroke around the field's centre


@dataclass
class Scene:
    """A drawn scene; object `i` has class `labels[i]`, colour `colors[i]`, `textures[i]` and `masks[i]`."""

    image: np.ndarray
    labels: list[int] = field(default_factory=list)
    colors: list[str] = field(default_factory=list)
    textures: list[str] = field(default_factory=list)  # "" for none, as all digits have
    masks: np.ndarray = field(default_factory=lambda: np.zeros((0, 1, 1), bool))
    samples: list[int] = field(default_factory=list)  # the handwriting's number in scikit-learn's data set


class Drawn(NamedTuple):
    """An object before it has a place and a colour: coverage of it and of it with its outline, [h, w]."""

    label: int
    sample: int
    fill: np.ndarray
    outline: np.ndarray


@cache
def _handwriting() -> tuple[np.ndarray, np.ndarray]:
    data = load_digits()
    return data.images / 16.0, data.target


@cache
def _glyph(index: int) -> Glyph:
    images, targets = _handwriting()
    small = np.pad(images[index], _PAD).astype(np.float32)
    side = small.shape[0] * _UP
    field = Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)
    ink = np.asarray(field).clip(0, 1)
    for threshold in (0.5, 0.45, 0.4, 0.35, 0.3):  # no thicker than needed to connect all strokes
        parts, count = ndimage.label(ink > threshold)
        if count == 1:
            break
    sizes = np.bincount(parts.ravel())[1:]
    if count > 1:  # a detached speck is not part of the digit
        keep = ndimage.binary_dilation(parts == sizes.argmax() + 1, iterations=_UP // 3)
        ink = np.where(keep, ink, 0)
    y, x = np.nonzero(ink > threshold)
    points = np.stack([x, y], 1) + 0.5 - side / 2
    hull = points[ConvexHull(points).vertices]
    return Glyph(int(targets[index]), Image.fromarray(ink.astype(np.float32)), threshold, hull)


def _draw_glyph(glyph: Glyph, height: float, angle: float, aspect: float) -> tuple[np.ndarray, np.ndarray]:
    """Coverage of stroke and of stroke plus outline, float [h, w] in 0..1, `height` pixels high."""
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    forward = np.array([[cos, -sin], [sin, cos]]) @ np.diag([aspect, 1.0])
    turned = glyph.hull @ forward.T
    low, high = turned.min(0), turned.max(0)
    scale = height / (high[1] - low[1])
    width_out, height_out = np.ceil((high - low) * scale).astype(int) + 4
    # PIL maps output to input coordinates: the middle of the turned stroke is the patch's middle
    inverse = np.linalg.inv(forward * scale)
    middle = np.linalg.inv(forward) @ ((low + high) / 2) + glyph.field.size[0] / 2
    offset = middle - inverse @ (np.array([width_out, height_out]) / 2)
    matrix = (*inverse[0], offset[0], *inverse[1], offset[1])
    ink = np.asarray(
        glyph.field.transform(
            (int(width_out), int(height_out)),
            Image.Transform.AFFINE,
            matrix,
            resample=Image.Resampling.BILINEAR,
        )
    )
    # ink rises from 0 to 1 within about one pixel of the sample, which is `slope` output pixels
    slope = scale * _UP
    edge = (ink - glyph.threshold) * slope
    return (edge + 0.5).clip(0, 1), (edge + 1.4).clip(0, 1) * (ink > 0.02)


@cache
def _photos() -> tuple[np.ndarray, ...]:
    return tuple(load_sample_images().images)


def _photo_crop(rng: np.random.Generator, split: str, size: int) -> np.ndarray:
    photo = _photos()[rng.integers(len(_photos()))]
    half = photo.shape[1] // 2  # the splits see different halves of each photograph
    photo = photo[:, :half] if split == "train" else photo[:, half:]
    side = int(rng.uniform(0.3, 1.0) * min(photo.shape[:2]))
    top = rng.integers(photo.shape[0] - side + 1)
    left = rng.integers(photo.shape[1] - side + 1)
    crop = Image.fromarray(photo[top : top + side, left : left + side])
    pixels = np.asarray(crop.resize((size, size), Image.Resampling.BILINEAR), dtype=np.float32)
    pixels = pixels[:, ::-1] if rng.random() < 0.5 else pixels
    gray = pixels.mean(2, keepdims=True)
    pixels = gray + (pixels - gray) * rng.uniform(0.4, 1.0)
    return (pixels * rng.uniform(0.5, 1.1) * rng.uniform(0.92, 1.08, 3)).clip(0, 255)


def _background(rng: np.random.Generator, kind: str, split: str, size: int) -> np.ndarray:
    """Float32 [size, size, 3], 0..255."""
    if kind in ("photo", "inverted", "toned"):
        pixels = _photo_crop(rng, split, size)
        if kind == "inverted":
            return 255 - pixels
        if kind == "toned":  # one tone, as an old print
            gray = pixels.mean(2, keepdims=True) / 255
            dark, bright = rng.uniform(0, 90, 3), rng.uniform(120, 255, 3)
            return dark + (bright - dark) * gray
        return pixels
    first, second = rng.uniform(20, 220, (2, 3))
    if kind == "gradient":
        angle = rng.uniform(0, 2 * np.pi)
        y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
        blend = 0.5 + 0.35 * (np.cos(angle) * x + np.sin(angle) * y)
    else:
        blend = np.zeros((size, size), np.float32)
        for cells, weight in ((3, 0.5), (9, 0.3), (27, 0.2)):
            coarse = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
            blend += weight * np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))
    pixels = first + (second - first) * blend[..., None]
    return (pixels + rng.normal(0, 4, (size, size, 1))).clip(0, 255)


def _shade(rng: np.random.Generator, name: str, tint: str) -> np.ndarray:
    color = np.array((COLORS | MORE_COLORS)[name], np.float32)
    if tint == "pastel":
        color = color + (255 - color) * 0.35
    elif tint == "dark":
        color = color * (0.8 if name in ("white", "gray") else 0.6)
    return color * rng.uniform(0.88, 1.04) + rng.uniform(-8, 8, 3)


def _paint(
    canvas: np.ndarray, where: tuple[slice, slice], color: np.ndarray, fill: np.ndarray,
    outline: np.ndarray, rng: np.random.Generator,
) -> None:  # fmt: skip
    """Blend outline, then stroke with a slight slope of light, into `canvas`; `color` is [3] or [h, w, 3]."""
    patch = canvas[where]
    darkness = rng.uniform(0.4, 0.85)  # never none: white on a bright sky would be invisible
    patch *= 1 - darkness * outline[..., None]
    first, last = rng.uniform(0.86, 1.08, 2)
    light = np.linspace(first, last, fill.shape[0])[:, None, None]
    patch += fill[..., None] * ((color * light).clip(0, 255) - patch)


def _digit(rng: np.random.Generator, spec: Variant, split: str, size: int) -> Drawn:
    first, last, _ = WRITERS[split].indices(len(_handwriting()[1]))
    index = int(rng.integers(first, last))
    glyph = _glyph(index)
    height = _height(rng, spec, size)
    angle = rng.uniform(-spec.rotation, spec.rotation)
    return Drawn(glyph.digit, index, *_draw_glyph(glyph, height, angle, rng.uniform(0.85, 1.15)))


def _shape(rng: np.random.Generator, spec: Variant, split: str, size: int) -> Drawn:
    label = int(rng.integers(len(spec.classes)))
    name = spec.classes[label]
    height, turn = _height(rng, spec, size), SHAPES[name][1]
    return Drawn(label, -1, *draw_shape(name, height, rng.uniform(-turn, turn), rng.uniform(0.85, 1.15)))


def _height(rng: np.random.Generator, spec: Variant, size: int) -> float:
    """In pixels, uniform in the logarithm: as many small as large objects."""
    return float(np.exp(rng.uniform(*np.log(spec.height))) * size / _BASE_SIZE)


def draw_scene(rng: np.random.Generator, split: str, variant: str, size: int) -> Scene:
    """Draw one scene of `size` x `size` pixels with handwriting and photographs of `split`."""
    spec = VARIANTS[variant]
    canvas = _background(rng, str(rng.choice(spec.backgrounds)), split, size)
    canvas = np.ascontiguousarray(canvas, np.float32)
    wanted = int(rng.choice(spec.count))
    scene = Scene(canvas, masks=np.zeros((0, size, size), bool))
    full = np.zeros(0)  # [N], pixels of each object before anything covered it
    for _attempt in range(40 * wanted):
        if len(scene.labels) == wanted:
            break
        drawn = (_shape if spec.shapes else _digit)(rng, spec, split, size)
        h, w = drawn.fill.shape
        if max(h, w) > size:
            continue
        top, left = int(rng.integers(size - h + 1)), int(rng.integers(size - w + 1))
        where = (slice(top, top + h), slice(left, left + w))
        mask = np.zeros((size, size), bool)
        mask[where] = drawn.fill > 0.5
        rest = scene.masks & ~mask
        if (rest.sum((1, 2)) < MIN_VISIBLE * full).any() or not mask.any():
            continue
        # objects with a pixel in the patch; two of one colour on each other would be unreadable
        near = [c for c, m in zip(scene.colors, scene.masks, strict=True) if m[where].any()]
        if near and rng.random() < _OVERLAP_REJECTED:
            continue
        name = str(rng.choice([c for c in spec.colors if c not in near]))
        color, texture = _shade(rng, name, str(rng.choice(spec.tint))), ""
        if spec.shapes:
            texture, color = textured(rng, color, drawn.fill.shape)
        _paint(canvas, where, color, drawn.fill, drawn.outline, rng)
        scene.masks = np.concatenate([rest, mask[None]])
        full = np.append(full, mask.sum())
        scene.labels.append(drawn.label)
        scene.colors.append(name)
        scene.textures.append(texture)
        scene.samples.append(drawn.sample)
    scene.image = canvas.round().clip(0, 255).astype(np.uint8)
    return scene
