"""Boxes and masks in the form that `wandb.Image` takes, so that a dashboard can toggle them.

Nothing here needs wandb. Shapes: N objects, `H W` pixels of the original image; boxes are xyxy in its pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ufo.types import IGNORE

MAX_MASK_CLASSES = 254  # wandb's masks are uint8, 0 is "nothing"
REFERRED_TO = "referred to"


def box_layers(
    predicted: tuple[Tensor, Tensor | None, Tensor | None],
    truth: tuple[Tensor | None, Tensor | None],
    names: dict[int, str],
) -> dict[str, Any]:
    """`boxes` of an image, given (boxes, labels, scores) predicted and (boxes, labels) annotated."""
    boxes, labels, scores = predicted
    layers = {"predictions": box_data(boxes, labels, names, scores)}
    if truth[0] is not None:
        layers["ground_truth"] = box_data(truth[0], truth[1], names)
    return {"boxes": layers}


def box_data(
    boxes: Tensor, labels: Tensor | None, names: dict[int, str], scores: Tensor | None = None
) -> dict[str, Any]:
    """wandb's form of boxes `[N, 4]` with labels `[N]` and scores `[N]`."""
    classes = labels.tolist() if labels is not None else [0] * len(boxes)
    entries = []
    for i, (box, label) in enumerate(zip(boxes.float().tolist(), classes, strict=True)):
        if not np.isfinite(box).all():  # JSON has no such numbers
            continue
        entry: dict[str, Any] = {
            "position": dict(zip(("minX", "minY", "maxX", "maxY"), box, strict=True)),
            "domain": "pixel",
            "class_id": label,
            "box_caption": names.get(label, str(label)),
        }
        if scores is not None:
            entry["scores"] = {"score": float(scores[i])}
            entry["box_caption"] += f" {float(scores[i]):.2f}"
        entries.append(entry)
    return {"box_data": entries, "class_labels": names}


def mask_layers(
    predicted: Tensor, truth: Tensor | None, classes: tuple[str, ...], size: tuple[int, int]
) -> dict[str, Any]:
    """`masks` of an image, given maps uint8 `[H, W]` in which 0 is "nothing" and class `i` is `i + 1`.

    More than 254 classes get no masks.
    """
    if len(classes) > MAX_MASK_CLASSES:
        return {}
    labels = {0: "nothing", **{i + 1: name for i, name in enumerate(classes or (REFERRED_TO,))}}
    maps = {"predictions": predicted} if truth is None else {"predictions": predicted, "ground_truth": truth}
    return {
        "masks": {
            key: {"mask_data": padded(value, *size).numpy(), "class_labels": labels}
            for key, value in maps.items()
        }
    }


def class_map(semantic: Tensor) -> Tensor:
    """A semantic map `[H, W]` with 0 where it says `IGNORE` and class + 1 elsewhere: uint8."""
    return torch.where(semantic == IGNORE, 0, semantic.long() + 1).to(torch.uint8)


def painted(masks: Tensor, labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Instances `[N, H, W]` over each other in one map uint8 `[H, W]`: label + 1, 0 elsewhere."""
    result = torch.zeros(size, dtype=torch.uint8)
    for mask, label in zip(masks, labels.tolist(), strict=True):
        result[mask.bool()] = label + 1
    return result


def padded(image: Tensor, height: int, width: int) -> Tensor:
    """`[..., H, W]` with zeros on the right and below: `[..., height, width]`."""
    right, below = width - image.shape[-1], height - image.shape[-2]
    return torch.nn.functional.pad(image, (0, right, 0, below))
