"""Where something is marked: first and last places, without waiting for the device."""

from __future__ import annotations

import torch
from torch import Tensor


def any_along(masks: Tensor, dim: int) -> Tensor:
    """`masks.any(dim)` of bool or uint8 masks, ten times as fast on a CPU."""
    return masks.view(torch.uint8).amax(dim).bool()


def first_and_last(marked: Tensor) -> tuple[Tensor, Tensor]:
    """First and last place that is True, of each row of a bool `[M, n]`; last < first without one."""
    some = marked.any(1)
    first = marked.int().argmax(1)
    last = marked.shape[1] - 1 - marked.flip(1).int().argmax(1)
    return first, torch.where(some, last, -1)
