"""Weights that are not finite are never saved: the checkpoint before them is kept, and the run says so.

A checkpoint also says if its last step was left out, so that the run cannot be taken for a finished one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

WATCH, LEFT_OUT = "NonFinite", "left_out"
"""In a checkpoint: the callback that leaves out steps, and in its state what it says of the last one."""


class NonFiniteError(RuntimeError):
    """A training whose weights, or whose gradients for too long, are not finite."""


def left_out(checkpoint: Mapping[str, Any]) -> str:
    """What a checkpoint says of its last step if that was left out; an empty text if it was taken."""
    callbacks = checkpoint.get("callbacks")
    state = callbacks.get(WATCH) if isinstance(callbacks, dict) else None
    why = state.get(LEFT_OUT) if isinstance(state, dict) else None
    return why if isinstance(why, str) else ""


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
