"""Whether autocast is at work on a device, and leaving it for a while.

The meta device, where memory is estimated (`ufo.memory`), has no autocast of torch: what stands in for it
says so here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

import torch
from torch import Tensor

_ON_META: ContextVar[torch.dtype | None] = ContextVar("autocast on the meta device", default=None)


def autocasts(device: torch.device) -> bool:
    """Whether operations on this device are cast to half precision."""
    return bool(_ON_META.get()) if device.type == "meta" else torch.is_autocast_enabled(device.type)


def product_type(x: Tensor) -> torch.dtype:
    """The type in which a product of this tensor is computed and summed up."""
    kind = x.device.type
    if x.dtype == torch.float64 or not autocasts(x.device):
        return x.dtype
    return _ON_META.get() or torch.get_autocast_dtype(kind)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Inside, operations on this device compute in the types that they are given."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


@contextmanager
def said_of_meta(half: torch.dtype) -> Iterator[None]:
    """Inside, the meta device is said to cast to that type."""
    token = _ON_META.set(half)
    try:
        yield
    finally:
        _ON_META.reset(token)
