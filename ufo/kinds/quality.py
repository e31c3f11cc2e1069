"""How well the objects of one image were found: a number in 0..1 that ranks images, not a published metric.

Shapes: N predicted and M annotated objects of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from torch import Tensor

MIN_SCORE = 0.3  # predictions below it are not held against the image


def objects_score(
    shapes: Tensor | Sequence[dict[str, Any]],
    scores: Tensor,
    labels: Tensor,
    annotated: Tensor | Sequence[dict[str, Any]],
    annotated_labels: Tensor,
    iscrowd: Tensor | None = None,
) -> float:
    """Twice the IoU of matched objects over the number of predicted and annotated ones: 1 is perfect.

    Objects of one class are matched greedily, best score first; crowds neither count nor cost anything.

    Args:
        shapes, annotated: boxes `[N, 4]` xyxy, or N RLE dicts.
        scores: `[N]`; predictions below `MIN_SCORE` are left out.
        labels, annotated_labels: `[N]` and `[M]`.
        iscrowd: bool `[M]`.
    """
    crowd = np.zeros(len(annotated_labels), bool) if iscrowd is None else iscrowd.numpy().astype(bool)
    order = [i for i in scores.argsort(descending=True, stable=True).tolist() if scores[i] >= MIN_SCORE]
    count = len(order) + int((~crowd).sum())
    if not count:
        return 1.0
    if not order or not len(crowd):
        return 0.0
    found = [_coco(shapes[i]) for i in order]
    truth = [_coco(shape) for shape in annotated]
    overlap = np.asarray(coco_mask.iou(found, truth, crowd.astype(np.uint8).tolist()))  # [N, M]
    same = labels.numpy()[order][:, None] == annotated_labels.numpy()[None]
    overlap = np.where(same, overlap, 0.0)
    matched = 0.0
    for row in overlap:
        best = int(np.where(crowd, 0.0, row).argmax())
        if row[best] > 0 and not crowd[best]:
            matched += float(row[best])
            overlap[:, best] = 0
        elif (row * crowd).max() > 0.5:
            count -= 1
    return 2 * matched / max(count, 1)


def _coco(shape: Tensor | dict[str, Any]) -> Any:
    """What pycocotools takes: RLE as it is, a box as x, y, width, height."""
    if isinstance(shape, dict):
        return shape
    x1, y1, x2, y2 = shape.tolist()
    return [x1, y1, x2 - x1, y2 - y1]
