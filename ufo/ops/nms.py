"""Suppressing duplicates: soft-NMS for boxes (arXiv 1704.04503), matrix NMS for masks (SOLOv2).

What the published system does: docs/published_system.md#post-processing. Shapes: N candidates of one
image, `H W` pixels.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.ops import box_iou

from ufo.ops.autocast import without_autocast
from ufo.ops.faster import faster
from ufo.ops.masks import rle_encode

_FEW_BOXES = 100
"""Boxes that are compared on the CPU, wherever they are."""
_PIXELS_AT_ONCE = 1 << 25
"""Mask elements turned to float32 at a time (128 MB)."""
_PIXELS_PER_RUN = 64
"""Pixels that a processor core multiplies and adds while it compares one run of two masks."""


def _few_on_cpu(boxes: Tensor, scores: Tensor, labels: Tensor, **settings: Any) -> Any:
    """On a GPU: a loop over few boxes takes less on the CPU than launching its kernels."""
    if not 0 < len(boxes) <= _FEW_BOXES:
        return NotImplemented
    columns = [boxes.float(), scores.float()[:, None], labels.float()[:, None]]
    together = torch.cat(columns, 1).cpu()  # one transfer; labels are whole in float32
    found = soft_nms(together[:, :4], together[:, 4], together[:, 5].to(labels.dtype), **settings)
    return tuple(x.to(boxes.device) for x in found)


@faster(_few_on_cpu, on_cpu=False)
def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    *,
    iou_threshold: float = 0.5,
    sigma: float = 0.5,
    min_score: float = 1e-3,
    method: Literal["linear", "gaussian", "naive"] = "linear",
) -> tuple[Tensor, Tensor]:
    """Soft-NMS within each class.

    The best remaining box is taken and the scores of those that overlap it decay: by `1 - IoU`
    (linear) or to 0 (naive) from `iou_threshold` on, by `exp(-IoU^2 / sigma)` (gaussian) always.

    Args:
        boxes: `[N, 4]` xyxy.
        scores: `[N]`.
        labels: int64 `[N]`; boxes of different classes do not influence each other.
        iou_threshold: overlap from which linear and naive decay acts.
        sigma: width of the gaussian.
        min_score: boxes whose score falls below it are dropped.
        method: form of the decay.

    Returns:
        Indices of the kept boxes int64 `[K]` in the order they were taken (descending score) and
        their decayed scores float32 `[K]`.

    Raises:
        ValueError: unknown `method`.
    """
    boxes, remaining = boxes.float(), scores.float()
    if not len(boxes):
        return labels.new_zeros(0), remaining
    # class-aware by moving every class to a place of its own, as the published numbers were made
    boxes = boxes + (labels.to(boxes) * (boxes.max() + 1))[:, None]
    decay = _soft_decay(box_iou(boxes, boxes).nan_to_num(0), method, iou_threshold, sigma)
    kept, kept_scores = [], []
    # a fixed number of steps on device: asking "is any left?" would wait for the device each time
    for _ in range(len(boxes)):
        score, best = remaining.max(0)
        kept.append(best)
        kept_scores.append(score)
        remaining = remaining * decay[best]
        remaining = remaining.masked_fill(remaining < min_score, -1.0)
        remaining = remaining.index_fill(0, best, -1.0)  # taken
    order, decayed = torch.stack(kept), torch.stack(kept_scores)
    valid = decayed >= min_score
    return order[valid], decayed[valid]


def _soft_decay(iou: Tensor, method: str, iou_threshold: float, sigma: float) -> Tensor:
    """Factor `[N, N]` by which taking box i changes the score of box j."""
    if method == "gaussian":
        return torch.exp(-iou.square() / sigma)
    if method not in ("linear", "naive"):
        raise ValueError(f"soft-NMS knows linear, gaussian and naive decay, not {method!r}")
    overlapped = 1 - iou if method == "linear" else torch.zeros_like(iou)
    return torch.where(iou >= iou_threshold, overlapped, torch.ones_like(iou))


def matrix_nms(
    masks: Tensor,
    labels: Tensor,
    scores: Tensor,
    *,
    kernel: Literal["gaussian", "linear"] = "gaussian",
    sigma: float = 2.0,
    filter_threshold: float = 0.05,
) -> tuple[Tensor, Tensor]:
    """Matrix NMS within each class: all scores decay at once, without a loop over the masks.

    Mask j decays by the minimum over better masks i of `f(IoU_ij) / f(max_k IoU_ki)`, the
    denominator being how much i itself is suppressed; f is `exp(-sigma IoU^2)` or `1 - IoU`.

    Args:
        masks: bool or 0/1 `[N, H, W]`.
        labels: int64 `[N]`.
        scores: `[N]`.
        kernel: f.
        sigma: sharpness of the gaussian kernel.
        filter_threshold: masks with a decayed score below it are dropped.

    Returns:
        Indices of the kept masks int64 `[K]` in order of descending decayed score, and these scores
        float32 `[K]`.

    Raises:
        ValueError: unknown `kernel`.
    """
    if kernel not in ("gaussian", "linear"):
        raise ValueError(f"matrix NMS knows the gaussian and the linear kernel, not {kernel!r}")
    if not len(masks):
        return labels.new_zeros(0), scores.float()
    sorted_scores, order = scores.float().sort(descending=True, stable=True)
    labels = labels[order]
    better = (labels[:, None] == labels).triu(1)  # [i, j]: i may suppress j
    iou = mask_iou(masks)[order][:, order] * better
    suppressed = iou.amax(0)[:, None]  # [i, 1]: how much i itself is covered by a better one
    if kernel == "gaussian":
        decay = torch.exp(sigma * (suppressed.square() - iou.square()))
    else:
        # an exact duplicate i has denominator 0: then it suppresses nothing that its twin does not
        decay = (1 - iou) / (1 - suppressed).clamp(min=torch.finfo(iou.dtype).eps)
    coefficient = decay.masked_fill(~better, 1.0).amin(0).clamp(max=1.0)
    decayed, rank = (sorted_scores * coefficient).sort(descending=True, stable=True)
    valid = decayed >= filter_threshold
    return order[rank][valid], decayed[valid]


def _run_by_run(masks: Tensor) -> Any:
    """On a CPU: comparing runs beats the product of pixels unless the masks are noise."""
    rles = rle_encode(masks)
    if not len(masks) or sum(len(r["counts"]) for r in rles) > masks.numel() / _PIXELS_PER_RUN:
        return NotImplemented
    return torch.from_numpy(coco_mask.iou(rles, rles, [0] * len(rles))).float()


@faster(_run_by_run, on_cpu=True)
def mask_iou(masks: Tensor) -> Tensor:
    """Pairwise IoU of masks, `[N, H, W]` (bool or 0/1) -> float32 `[N, N]`; 0 for empty masks."""
    flat = masks.flatten(1)
    step = max(_PIXELS_AT_ONCE // max(len(flat), 1), 1)
    # counts are exact in float32 (below 2^24 pixels) but not in the half types of autocast
    with without_autocast(masks.device):
        intersection = flat.new_zeros(len(flat), len(flat), dtype=torch.float32)
        for part in flat.split(step, dim=1):
            pixels = part.float()
            intersection += pixels @ pixels.T
    area = intersection.diagonal()
    return intersection / (area[:, None] + area - intersection).clamp(min=1)
