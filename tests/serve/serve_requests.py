"""Requests as a user sends them."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image


def png(seed: int = 0, size: tuple[int, int] = (40, 60)) -> bytes:
    """The file of a picture of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def question(seed: int = 0, **changes) -> dict:
    """A request about a picture of noise."""
    image = base64.b64encode(png(seed)).decode()
    return {"image": image, "tasks": ["detection"], "score": 0.0} | changes
