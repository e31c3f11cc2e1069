"""The losses of every task: token cross-entropy, focal and dice (paper section 3.5).

Each is a sum divided by a count that is averaged over all ranks, so that batches may differ between ranks.
Shapes: `M` supervised tokens or masks, `C` width, `V` vocabulary, `P` sampled points.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from ufo.ops.points import point_sample, sample_uncertain_points
from ufo.ops.resize import resize_mask_logits

DICE_EPS = 1e-3
IGNORED = -100  # a target of which nothing is learned


def mean_over_ranks(count: int | float, device: torch.device) -> Tensor:
    """max(mean over ranks of `count`, 1), float32: the normaliser of a summed loss."""
    total = torch.full((), float(count), device=device)  # a copy from the host would wait for the device
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(total)
        total = total / dist.get_world_size()
    return total.clamp(min=1.0)


def token_loss(hidden: Tensor, targets: Tensor, embedding: Tensor, count: Tensor) -> Tensor:
    """Cross-entropy of supervised positions only: hidden `[M, C]`, target ids `[M]`, embedding `[V, C]`.

    A sum, to which targets that are `IGNORED` add nothing, divided by `count`.
    """
    logits = F.linear(hidden, embedding).float()
    total = F.cross_entropy(logits, targets, reduction="sum", ignore_index=IGNORED)
    return total / count


def mask_losses(
    logits: Tensor, masks: Tensor, points: Tensor, count: Tensor, kept: Tensor | None = None
) -> dict[str, Tensor]:
    """Focal (alpha .25, gamma 2; mean over points) and naive dice, summed over masks and divided by `count`.

    logits `[M, h, w]`, masks 0/1 `[M, H, W]`, points `[M, P, 2]` normalised (x, y). `kept [M]` is 0 for
    masks that are left out and 1 for others; None: none are.
    """
    predicted = point_sample(logits, points)  # [M, P]
    with torch.no_grad():
        target = point_sample(masks.to(logits.dtype), points)
    return _focal_and_dice(predicted, target, count, kept)


def _focal_and_dice(
    predicted: Tensor, target: Tensor, count: Tensor, kept: Tensor | None
) -> dict[str, Tensor]:
    """Of logits and 0/1 targets `[M, P]`."""
    focal = sigmoid_focal_loss(predicted, target, alpha=0.25, gamma=2.0).mean(1)
    p = predicted.sigmoid()
    overlap = 2 * (p * target).sum(1) + DICE_EPS
    dice = 1 - overlap / (p.sum(1) + target.sum(1) + DICE_EPS)
    if kept is not None:
        focal, dice = focal * kept, dice * kept
    return {"focal": focal.sum() / count, "dice": dice.sum() / count}


def sampled_mask_losses(
    logits: Tensor,
    masks: Tensor,
    num_points: int,
    count: Tensor,
    kept: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """`mask_losses` at PointRend's uncertain points; zero (but connected) without masks."""
    if not len(logits):
        return {"focal": logits.sum() * 0.0, "dice": logits.sum() * 0.0}
    points = sample_uncertain_points(logits.detach(), num_points, generator=generator)
    return mask_losses(logits, masks, points, count, kept)


def full_mask_losses(
    logits: Tensor, masks: Tensor, count: Tensor, kept: Tensor | None = None
) -> dict[str, Tensor]:
    """`mask_losses` at every pixel: logits `[M, h, w]` are resized to the masks `[M, H, W]`."""
    if not len(logits):
        return {"focal": logits.sum() * 0.0, "dice": logits.sum() * 0.0}
    height, width = masks.shape[-2:]
    predicted = resize_mask_logits(logits, (height, width))
    target = masks.flatten(1).to(predicted.dtype)
    return _focal_and_dice(predicted.flatten(1), target, count, kept)
