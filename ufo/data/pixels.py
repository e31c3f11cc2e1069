"""Pictures that are arrays or tensors already, by the rules by which files are read (`ufo.data.pictures`).

Shapes: `H W` pixels; arrays are [H, W, channels] and tensors [channels, H, W], as in NumPy and torchvision.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

SIXTEEN = "picture of 16 bits a pixel, scaled to 8"
DARK = "picture of 16 bits a pixel that is nearly black in 8, as none is above 4095; scale it to 65535"
CLEAR = "picture with transparency, which is dropped"

CHANNELS = (1, 3, 4)  # grey, RGB, RGBA
FLOATS = frozenset(["float16", "bfloat16", "float32", "float64"])
DTYPES = FLOATS | {"uint8", "uint16"}

Say = Callable[[str, str], None]
"""What is told a kind of change and the file."""


def as_pixels(image: np.ndarray | Tensor, say: Say) -> Tensor:
    """An array `[H, W, 3]` or a tensor `[3, H, W]` as uint8 `[3, H, W]`, RGB.

    Args:
        image: uint8 from 0 to 255, uint16 to 65535, or floats from 0 to 1; besides three channels it may have
            four (RGBA, whose transparency is dropped) or one, and `[H, W]` is grey. An array is copied.
        say: is told what was changed.

    Raises ValueError that says how to convert what is none of these.
    """
    array = isinstance(image, np.ndarray)
    what = "the array" if array else "the tensor"
    _check(image)
    values = _values(image)
    if values.ndim == 2:
        values = values[None]
    elif array:
        values = values.permute(2, 0, 1)
    values = _eight_bits(values, what, say)
    if len(values) == 4:
        if values[3].min() < 255:
            say(CLEAR, what)
        values = values[:3]
    return values.expand(3, -1, -1) if len(values) == 1 else values


def _name(image: np.ndarray | Tensor) -> str:
    return str(image.dtype).removeprefix("torch.") if isinstance(image, Tensor) else image.dtype.name


def _check(image: np.ndarray | Tensor) -> None:
    """Raises ValueError where the shape or the type is not that of a picture."""
    array, shape, name = isinstance(image, np.ndarray), tuple(image.shape), _name(image)
    wanted = "array is uint8 [H, W, 3]" if array else "tensor is uint8 [3, H, W]"
    wrong = f"an image {wanted} (RGB, 0 to 255) or floats from 0 to 1, not {name} {list(shape)}"
    if 0 in shape:
        raise ValueError(f"{wrong}; it has no pixels")
    if name not in DTYPES:
        stretched = " * 255" if name == "bool" else ""
        convert = ".astype(np.uint8)" if array else ".to(torch.uint8)"
        raise ValueError(f"{wrong}; convert it with {convert}{stretched}")
    if len(shape) == 2 or (len(shape) == 3 and shape[2 if array else 0] in CHANNELS):
        return
    if len(shape) == 3 and shape[0 if array else 2] in CHANNELS:
        raise ValueError(f"{wrong}; give it {'.transpose(1, 2, 0)' if array else '.permute(2, 0, 1)'}")
    raise ValueError(f"{wrong}; give one picture, or a list of such")


def _values(image: np.ndarray | Tensor) -> Tensor:
    """A tensor itself, without gradients; a copy of an array, which may be read-only or change afterwards."""
    if isinstance(image, Tensor):
        return image.detach()
    return torch.from_numpy(np.array(image, dtype=image.dtype.newbyteorder("=")))


def _eight_bits(values: Tensor, what: str, say: Say) -> Tensor:
    name = _name(values)
    if name == "uint16":
        deep = values.to(torch.int32)
        say(DARK if deep.max() < 4096 else SIXTEEN, what)
        return (deep >> 8).to(torch.uint8)
    if name not in FLOATS:
        return values
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # NaN fails too
        raise ValueError(
            f"{what} has floats from {low:g} to {high:g}, and those of a picture go from 0 to 1: divide 0 to "
            "255 by 255, undo a normalisation, clamp what is a little beyond"
        )
    return (values.float() * 255).round().to(torch.uint8)
