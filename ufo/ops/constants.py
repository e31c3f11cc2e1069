"""Tensors that follow from a few numbers alone, made once: on a GPU each of their pieces is a kernel.

@remembered(maxsize=64)
def diagonal(size: int, device: torch.device) -> Tensor: ...
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import wraps
from threading import Lock
from typing import ParamSpec

import torch
from torch import Tensor

Arguments = ParamSpec("Arguments")


def remembered(maxsize: int) -> Callable[[Callable[Arguments, Tensor]], Callable[Arguments, Tensor]]:
    """Keep the last `maxsize` results of a function of hashable arguments; they must not be written to.

    They are no inference tensors, whoever asks first. What a compiler or an exporter traces is not kept: such
    tensors have no values.
    """

    def decorate(function: Callable[Arguments, Tensor]) -> Callable[Arguments, Tensor]:
        kept: OrderedDict[Hashable, Tensor] = OrderedDict()
        lock = Lock()  # several threads may predict

        @wraps(function)
        def remembering(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Tensor:
            if torch.compiler.is_compiling():
                return function(*args, **kwargs)
            key = (args, tuple(kwargs.items()))
            with lock:
                if key in kept:
                    kept.move_to_end(key)
                    return kept[key]
            with torch.inference_mode(False), torch.no_grad():
                made = function(*args, **kwargs)
            if type(made) is Tensor:
                with lock:
                    kept[key] = made
                    if len(kept) > maxsize:
                        kept.popitem(last=False)
            return made

        return remembering

    return decorate


@remembered(maxsize=64)
def constant(values: tuple[float, ...], kind: torch.dtype, device: torch.device) -> Tensor:
    """Numbers on a device, copied there once: it waits for each copy from the host."""
    return torch.tensor(values, dtype=kind, device=device)
