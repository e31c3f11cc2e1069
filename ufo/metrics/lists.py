"""The metrics of a training on lists in memory: predictions of any model, as dicts, without a Trainer.

Shapes: `N` predicted and `M` annotated objects of one image, `H W` its pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ufo.metrics.base import MetricCallback
from ufo.ops.masks import rle_decode, rle_encode
from ufo.ops.nearest import instead
from ufo.types import Prediction, Target

_DTYPES = {
    "boxes": torch.float32,
    "scores": torch.float32,
    "labels": torch.int64,
    "iscrowd": torch.bool,
    "area": torch.float32,
    "semantic": torch.int64,
    "presence": torch.float32,
}


def measure(
    metric: MetricCallback,
    predictions: Sequence[Prediction | Mapping[str, Any]],
    targets: Sequence[Target | Mapping[str, Any]],
    classes: Sequence[str] = (),
) -> dict[str, float | None]:
    """The numbers of a metric for lists with one entry per image: `measure(BoxMAP(), found, true, names)`.

    Args:
        metric: any of `ufo.metrics`, or one of your own.
        predictions: what `model.predict` gives, or dicts with fields of `Prediction`, as tensors, arrays or
            lists: `boxes [N, 4]` xyxy in pixels, `scores [N]`, `labels [N]`, `masks [N, H, W]` bool or COCO's
            RLE, `semantic [H, W]`, `text`.
        targets: the same of `Target`: `boxes [M, 4]`, `labels [M]`, `masks`, `iscrowd`, `area`, `semantic`,
            `captions`, `answers`.
        classes: names of the labels, in order.

    Returns:
        Its numbers by name; None is what the targets do not define.

    Raises ValueError that names the image and says what is wrong with it.
    """
    if len(predictions) != len(targets):
        raise ValueError(f"{len(predictions)} predictions for {len(targets)} targets; give one per image")
    if isinstance(classes, str):
        raise ValueError(f"classes= is a list of names: classes=['{classes}']")
    names = tuple(classes)
    counted = metric.make_metric(names)
    for index, (found, true) in enumerate(zip(predictions, targets, strict=True)):
        try:
            prediction, target = _prediction(found), _target(true, index)
            _check_units(prediction, target)
            counted.update(*metric.record(prediction, target, names))
        except ValueError as error:
            raise ValueError(f"image {index}: {error}") from error
    return {name: None if math.isnan(value) else float(value) for name, value in counted.compute().items()}


def _prediction(found: Prediction | Mapping[str, Any]) -> Prediction:
    if isinstance(found, Prediction):
        return found
    known = {field.name for field in fields(Prediction)} - {"task", "rows", "answers", "broken", "under"}
    values = _values(found, known, "prediction")
    if "masks" in values:
        values["masks"] = _bitmaps(values["masks"])
    return Prediction("", **values)


def _target(true: Target | Mapping[str, Any], index: int) -> Target:
    if isinstance(true, Target):
        return true
    known = {field.name for field in fields(Target)} - {"id", "size"}
    values, size = _values(true, known, "target"), (0, 0)
    if "semantic" in values:
        height, width = values["semantic"].shape
        size = (height, width)
    masks = values.get("masks", ())
    if len(masks) and not isinstance(masks[0], Mapping):
        values["masks"] = rle_encode(_bitmaps(masks))
    if len(masks):
        height, width = values["masks"][0]["size"]
        size = (height, width)
    return Target(id=index, size=size, **values)


def _values(record: Mapping[str, Any], known: set[str], what: str) -> dict[str, Any]:
    """The fields of a record, with tensors where they are numbers."""
    values = dict(record)
    odd = next((key for key in values if key not in known), None)
    if odd is not None:
        raise ValueError(f"a {what} has no '{odd}'; {instead(str(odd), known, 'it has')}")
    for key, dtype in _DTYPES.items():
        if key in values:
            values[key] = torch.as_tensor(values[key], dtype=dtype).detach().cpu()
    if "boxes" in values:
        values["boxes"] = _checked(values["boxes"])
    return values


def _checked(boxes: Tensor) -> Tensor:
    """Boxes `[N, 4]`, also of an empty list."""
    boxes = boxes.reshape(-1, 4) if not boxes.numel() else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes are [N, 4], not {list(boxes.shape)}")
    inside_out = (boxes[:, 2:] < boxes[:, :2]).any(1)
    if inside_out.any():
        one = ", ".join(f"{number:g}" for number in boxes[inside_out][0].tolist())
        raise ValueError(
            f"boxes are x1, y1, x2, y2, and {one} is not; torchvision.ops.box_convert(boxes, 'xywh', 'xyxy') "
            "converts COCO's x, y, width, height"
        )
    return boxes


def _bitmaps(masks: Any) -> Tensor:
    """Masks `[N, H, W]`, bool."""
    if not isinstance(masks, Tensor) and len(masks) and isinstance(masks[0], Mapping):
        height, width = masks[0]["size"]
        return rle_decode(masks, (height, width)).bool()
    several = isinstance(masks, list | tuple) and len(masks) and isinstance(masks[0], Tensor)
    masks = torch.stack(list(masks)) if several else torch.as_tensor(np.asarray(masks))
    if masks.ndim != 3:
        raise ValueError(
            f"masks are [N, H, W], not {list(masks.shape)}; of torchvision's take masks[:, 0] > 0.5"
        )
    if masks.is_floating_point():
        raise ValueError("masks are bool, not floats; take masks > 0.5")
    return masks.bool().cpu()


def _check_units(prediction: Prediction, target: Target) -> None:
    """Raises ValueError where one side counts in pixels and the other in shares of the image."""
    if prediction.boxes is None or target.boxes is None or not len(prediction.boxes) or not len(target.boxes):
        return
    found, true = float(prediction.boxes.max()), float(target.boxes.max())
    for what, small, large in (("predicted", found, true), ("annotated", true, found)):
        if 0 < small <= 1 and large > 2:
            raise ValueError(
                f"the {what} boxes go to {small:g} and the others to {large:g}; give both in pixels"
            )
