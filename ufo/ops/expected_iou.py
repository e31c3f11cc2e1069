"""What the probabilities of a box's numbers tell: how well it will fit, and where it lies between the bins.

The four numbers are taken as independent. What two boxes share is then a product of what they share along x
and along y, and both expectations are exact; the IoU's is the quotient of the expected intersection and the
expected union. Shapes: `N` boxes, `S` values that a number may have (0 to S - 1).
"""

from __future__ import annotations

import torch
from torch import Tensor


def expected_iou(boxes: Tensor, spread: Tensor) -> Tensor:
    """The expected IoU of boxes with the boxes that the probabilities say, float32 `[N]` in 0..1.

    Args:
        boxes: int64 `[N, 4]`, (centre x, centre y, width, height) in bins, each between 0 and S - 1.
        spread: `[N, 4, S]`, the probability of each value of these numbers. What is missing to a sum of 1 is
            the probability that there is no number, and so no box.
    """
    spread = spread.float()
    there = spread.sum(2)  # [N, 4]
    spread = spread / there.clamp(min=torch.finfo(torch.float32).tiny)[..., None]
    shared_x, width = _shared(boxes[:, 0], boxes[:, 2], spread[:, 0], spread[:, 2])
    shared_y, height = _shared(boxes[:, 1], boxes[:, 3], spread[:, 1], spread[:, 3])
    intersection = shared_x * shared_y
    union = (boxes[:, 2] * boxes[:, 3]).float() + width * height - intersection
    # a box without extent shares nothing with any
    return (intersection / union.clamp(min=1e-6)).clamp(0, 1) * there.prod(1).clamp(max=1)


_REACH = 0.25
"""How far an expected number may be from the one that was said, in sides of the box."""


def expected_numbers(boxes: Tensor, spread: Tensor) -> Tensor:
    """The mean of each number among its likely values, float32 `[N, 4]`: finer than bins are.

    Values further away than a quarter of the box's side are another box's, and count for nothing.

    Args:
        boxes, spread: as of `expected_iou`. A number of which nothing is likely stays as it was said.
    """
    values = torch.arange(spread.shape[2], device=spread.device)  # [S]
    reach = (boxes[:, 2:] * _REACH).clamp(min=1).repeat(1, 2)  # [N, 4]
    near = (values - boxes[..., None]).abs() <= reach[..., None]
    weight = spread.float() * near
    total = weight.sum(2)
    mean = (weight * values).sum(2) / total.clamp(min=torch.finfo(torch.float32).tiny)
    return torch.where(total > 0, mean, boxes.float())


def _shared(centre: Tensor, length: Tensor, centres: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Along one side: the expected length that two intervals share, and the other's expected length, `[N]`.

    An interval `centre [N]`, `length [N]`, and the probabilities `[N, S]` of another's. With the distance a
    of the centres they share max(0, min(length, length', (length + length') / 2 - a)).
    """
    values = torch.arange(lengths.shape[1], device=lengths.device)  # length'
    distance = (values - centre[:, None]).abs()  # [N, S]
    of_distance = torch.zeros_like(centres).scatter_add_(1, distance, centres)
    closer, sums = of_distance.cumsum(1), (of_distance * values).cumsum(1)  # of all distances up to a
    inside = ((values - length[:, None]).abs() // 2).clamp(max=len(values) - 1)  # one lies in the other
    touching = ((values + length[:, None]) // 2).clamp(max=len(values) - 1)  # they share something
    half = (values + length[:, None]) / 2
    whole = torch.minimum(values.expand_as(half), length[:, None].expand_as(half)) * closer.gather(1, inside)
    part = half * (closer.gather(1, touching) - closer.gather(1, inside))
    part = part - (sums.gather(1, touching) - sums.gather(1, inside))
    return (lengths * (whole + part)).sum(1), (lengths * values).sum(1)
