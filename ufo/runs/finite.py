"""Weights that are not finite are never saved: the checkpoint before them is kept, and the run says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class NonFiniteError(RuntimeError):
    """A training whose weights, or whose gradients for too long, are not finite."""


def not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors with a value that is not finite."""
    names = [n for n, v in state.items() if isinstance(v, Tensor) and v.is_floating_point() and v.numel()]
    if not names:
        return []
    # the largest absolute value: one pass, and NaN or infinite where any value is
    whole: list[Any] = [state[name] for name in names]
    values: list[Tensor] = [v.to_local() if hasattr(v, "to_local") else v for v in whole]
    groups: dict[torch.device, list[int]] = {}
    for i, value in enumerate(values):
        groups.setdefault(value.device, []).append(i)
    broken = []
    for members in groups.values():
        largest = torch._foreach_norm([values[i].detach() for i in members], ord=torch.inf)
        good = torch.stack([x.float() for x in largest]).isfinite().tolist()
        broken += [names[i] for i, is_good in zip(members, good, strict=True) if not is_good]
    return sorted(broken)
