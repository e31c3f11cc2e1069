"""Quicker ways to compute the same on one kind of device, apart from the definition that they stand in for.

    @faster(strided_planes, on_cpu=True, gradients=False)
    def arrange_planes(planes): ...

The decorated function is the definition and runs on every device; tests call it as `.plain`, and inside
`definitions()` nothing stands in for it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

Function = TypeVar("Function", bound=Callable[..., Any])
# How many `definitions()` are open. A plain number, as torch 2.6 traces no context variable; what other
# threads compute meanwhile is the same, only slower.
_open = 0


def faster(
    stand_in: Callable[..., Any], *, on_cpu: bool, gradients: bool | None = None
) -> Callable[[Function], Function]:
    """Call `stand_in` where the first argument, a tensor, is (not) on a CPU and gradients are (not) recorded.

    Args:
        stand_in: takes the same arguments; may answer NotImplemented where it would not be quicker.
        on_cpu: True: on a CPU; False: on every other device.
        gradients: with gradients, without them, or (None) in both cases.
    """

    def decorate(definition: Function) -> Function:
        @functools.wraps(definition)
        def chosen(*args: Any, **kwargs: Any) -> Any:
            first: Tensor = args[0] if args else next(iter(kwargs.values()))
            here = (first.device.type == "cpu") == on_cpu and not _open
            if here and (gradients is None or gradients == torch.is_grad_enabled()):
                result = stand_in(*args, **kwargs)
                if result is not NotImplemented:
                    return result
            return definition(*args, **kwargs)

        cast(Any, chosen).plain = definition
        return cast(Function, chosen)

    return decorate


@contextmanager
def definitions() -> Iterator[None]:
    """Inside, everything is computed as it is defined: a graph is for other sizes than its example's."""
    global _open
    _open += 1
    try:
        yield
    finally:
        _open -= 1
