"""The passes of training through one layer, compiled by `compile=true`.

A pass is a plain function of a layer and its tensors. It is compiled once for all layers and models: a graph
depends on what is in a layer and not on which one it is. Lengths that differ from batch to batch stay open.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import cache, wraps
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

BACKEND: Any = "inductor"

Pass = TypeVar("Pass", bound=Callable[..., Any])


class _Lengths(NamedTuple):
    """The dimensions that differ of an argument, or of what the path leads to inside of it."""

    argument: int
    path: Sequence[str]
    dimensions: Sequence[int]


_LENGTHS: dict[Callable[..., Any], list[_Lengths]] = {}


def lengths(**dimensions: Sequence[int]) -> Callable[[Pass], Pass]:
    """Says which dimensions of a pass's arguments differ from batch to batch; of others a graph has one size.

    A key is an argument or something inside of it, as `context.visible`; of a tuple all tensors are meant.
    With all dimensions open, tracing one layer takes minutes: sizes of windows and images become formulas.
    """

    def remember(function: Pass) -> Pass:
        names = list(inspect.signature(function).parameters)
        paths = [key.split(".") for key in dimensions]
        _LENGTHS[function] = [
            _Lengths(names.index(name), path, open_)
            for (name, *path), open_ in zip(paths, dimensions.values(), strict=True)
        ]
        return function

    return remember


def compile_pass(function: Pass) -> Pass:
    """A function of `lengths`, compiled at its first call."""
    return cast(Pass, _compiled(function, BACKEND))


@cache
def _compiled(function: Callable[..., Any], backend: Any) -> Callable[..., Any]:
    graphs = torch.compile(function, backend=backend, dynamic=False)

    @wraps(function)
    def call(*arguments: Any) -> Any:
        given = [_laid_out(a) if isinstance(a, Tensor) else a for a in arguments]
        for argument, path, dimensions in _LENGTHS[function]:
            for tensor in _tensors(given[argument], path):
                torch._dynamo.maybe_mark_dynamic(tensor, [d % tensor.ndim for d in dimensions])
        return graphs(*given)

    return call


def _laid_out(tensor: Tensor) -> Tensor:
    """Streams and tables in the usual layout, and weights as plain tensors: else there were more graphs."""
    if isinstance(tensor, nn.Parameter):
        return tensor.view_as(tensor)
    return tensor if tensor.ndim > 3 else tensor.contiguous()  # heads are left as they are


def _tensors(value: Any, path: Sequence[str]) -> Iterator[Tensor]:
    for part in path:
        value = value[int(part)] if part.isdigit() else getattr(value, part)
    yield from (v for v in (value if isinstance(value, tuple) else (value,)) if isinstance(v, Tensor))
