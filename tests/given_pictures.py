"""Pictures that `model.predict` is given, and whether two predictions are the same."""

from __future__ import annotations

import io

import PIL.Image
import torch

from ufo.types import Prediction

PARTS = ("boxes", "scores", "labels", "masks", "semantic", "text", "presence", "classes")


def pixels(seed: int = 0, height: int = 17, width: int = 31) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)


def png(image: torch.Tensor) -> bytes:
    out = io.BytesIO()
    PIL.Image.fromarray(image.permute(1, 2, 0).numpy()).save(out, "PNG")
    return out.getvalue()


def assert_same(one: Prediction, other: Prediction, exactly: bool = True) -> None:
    for name in PARTS:
        ours, theirs = getattr(one, name), getattr(other, name)
        if not isinstance(ours, torch.Tensor):
            assert ours == theirs, name
        elif exactly or not ours.is_floating_point():
            assert torch.equal(ours, theirs), name
        else:
            torch.testing.assert_close(ours, theirs)
