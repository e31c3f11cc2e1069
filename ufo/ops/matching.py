"""Which query answers for which object, and which queries are trained (docs/published_system.md#assignment).

Shapes: B images, Q queries, N objects, W windows. Points are normalised xy, boxes xyxy pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_convert


def assignment_cost(
    points: Tensor,
    boxes: Tensor,
    size: tuple[int, int],
    masks: Tensor | None = None,
    *,
    point_weight: float = 5.0,
    mask_weight: float = 100.0,
    noise: Tensor | None = None,
) -> Tensor:
    """Cost of letting each query answer for each object (docs/published_system.md#assignment).

    `point_weight * L1(point, box centre) [+ mask_weight * (point outside the mask)] [+ noise]`, the
    distance in units of the image.

    Args:
        points: `[Q, 2]` normalised xy of the queries.
        boxes: `[N, 4]` xyxy pixels of an image of `size`.
        size: `(H, W)`.
        masks: uint8 or bool `[N, H, W]`; `None` leaves the mask term out (detection).
        point_weight: weight of the distance.
        mask_weight: price of a point outside the object.
        noise: `[Q, N]`, added unscaled (semantic segmentation: U(0, 1)).

    Returns:
        float32 `[Q, N]`.
    """
    height, width = size
    extent = torch.tensor([width, height], dtype=torch.float32, device=points.device)
    points = points.float()
    centres = box_convert(boxes.float(), "xyxy", "cxcywh")[:, :2] / extent
    cost: Tensor = point_weight * (points[:, None] - centres).abs().sum(-1)  # [Q, N]
    if masks is not None:
        x, y = (points * extent).long().unbind(-1)  # truncated, not rounded
        inside = masks[:, y.clamp(0, height - 1), x.clamp(0, width - 1)].T  # [Q, N]
        cost = cost + mask_weight * (1 - inside.float())
    return cost if noise is None else cost + noise.float()


def hungarian(cost: Tensor) -> Tensor:
    """Cheapest one-to-one assignment of queries to objects.

    Args:
        cost: `[Q, N]`, finite; N may be 0 or exceed Q (then some objects stay without a query).

    Returns:
        int64 `[Q]`: the matched column of each query, or -1; on the device of `cost`.

    Raises:
        ValueError: a cost is NaN or infinite.
    """
    from scipy.optimize import linear_sum_assignment  # for training alone, and it costs every start .3 s

    matched = torch.full((cost.shape[0],), -1, dtype=torch.int64)
    if cost.numel():
        matrix = cost.detach().float().cpu()
        if not bool(matrix.isfinite().all()):
            raise ValueError(
                "the assignment cost holds NaN or infinite values; look for boxes with NaN "
                "coordinates in this image's annotations"
            )
        rows, columns = linear_sum_assignment(matrix.numpy())
        matched[torch.from_numpy(rows)] = torch.from_numpy(columns)
    return matched.to(cost.device)


def assign(
    points: Tensor,
    boxes: Tensor,
    size: tuple[int, int],
    masks: Tensor | None = None,
    *,
    repeat: int = 3,
    fold: bool = True,
    point_weight: float = 5.0,
    mask_weight: float = 100.0,
    noise: Tensor | None = None,
) -> Tensor:
    """Assign queries to the objects of one image, each object to up to `repeat` queries.

    The ground truth is repeated as a whole, [g0..gn, g0..gn, ...], and matched one-to-one.

    Args:
        points, boxes, size, masks, point_weight, mask_weight: as in `assignment_cost`.
        repeat: how often the ground truth is repeated.
        fold: answer with the index of the object; `False`: with that in the repeated list.
        noise: `[Q, repeat * N]`, added unscaled; different for the repetitions of an object.

    Returns:
        int64 `[Q]`: index of the object each query answers for, or -1 (background).
    """
    cost = assignment_cost(
        points, boxes, size, masks, point_weight=point_weight, mask_weight=mask_weight
    ).repeat(1, repeat)
    matched = hungarian(cost if noise is None else cost + noise.float())
    if not fold or not len(boxes):
        return matched
    return torch.where(matched < 0, matched, matched % len(boxes))


def sample_per_window(
    assigned: Tensor, windows: Tensor, quota: int, generator: torch.Generator | None = None
) -> Tensor:
    """Choose the queries to train on: `quota` of every window, positives first.

    See docs/published_system.md#assignment.
    Within a window: positives in ascending index, then random negatives. Where the positives exceed
    the quota, a random subset of them in random order.

    Args:
        assigned: int64 `[B, Q]`, -1 = background.
        windows: int64 `[Q]`, window of each query, all windows with equally many queries. Kept on
            the CPU it costs no device synchronisation.
        quota: queries to keep per window.
        generator: source of randomness; its device may differ from that of `assigned`.

    Returns:
        int64 `[B, W * quota]`: query indices, window by window in ascending id.

    Raises:
        ValueError: windows of unequal size, or smaller than the quota.
    """
    counts = torch.unique(windows, return_counts=True)[1]
    num_windows, per_window = len(counts), len(windows) // max(len(counts), 1)
    if bool((counts != per_window).any()):
        raise ValueError("windows hold different numbers of queries; use a grid that divides evenly")
    if not 1 <= quota <= per_window:
        raise ValueError(
            f"cannot keep {quota} of {per_window} queries per window; lower the number of samples "
            "per window or raise the number of queries"
        )
    members = windows.argsort(stable=True).to(assigned.device)  # [Q], window-major
    positive = (assigned[:, members] >= 0).unflatten(1, (num_windows, per_window))  # [B, W, Q/W]
    device = assigned.device if generator is None else generator.device
    key = torch.rand(positive.shape, generator=generator, device=device).to(assigned.device)
    # the smallest keys win: positives lie in [0, 1), negatives in [1, 2)
    rank = torch.arange(per_window, device=assigned.device) / per_window
    crowded = positive.sum(-1, keepdim=True) > quota
    key = torch.where(positive, torch.where(crowded, key, rank), 1 + key)
    chosen = key.topk(quota, dim=-1, largest=False, sorted=True).indices  # [B, W, quota]
    return members.view(num_windows, per_window).expand_as(key).gather(-1, chosen).flatten(1)
