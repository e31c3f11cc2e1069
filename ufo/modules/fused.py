"""An optimizer's step in few kernels, where its class and the device of the weights have them."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

from torch.optim import Optimizer

# a CPU has fused steps too; there they save little and change the last bits of every run so far
DEVICES = frozenset({"cuda"})
_CHOICES = ("fused", "foreach", "capturable", "differentiable")  # of the kind of step


def fused_where_faster(
    factory: partial[Optimizer],
    groups: Sequence[Mapping[str, Any]],
    devices: Collection[str] = DEVICES,
) -> partial[Optimizer]:
    """The factory with `fused=True`, unless it says itself which step it wants.

    A kernel for hundreds of weights takes the place of one for each operation of each dozen of them; what is
    computed is the same.
    """
    if not isinstance(factory, partial):  # any other callable says itself what it makes
        return factory
    known = inspect.signature(factory.func).parameters
    if "fused" not in known or any(factory.keywords.get(name) is not None for name in _CHOICES):
        return factory
    weights = [weight for group in groups for weight in group["params"]]
    if all(weight.device.type in devices and weight.is_floating_point() for weight in weights):
        return partial(factory, fused=True)
    return factory
