"""What kernels read and write in Triton's interpreter, which itself reads wherever a pointer leads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor


@contextmanager
def watched() -> Iterator[set[str]]:
    """Inside, kernels may touch the elements of their arguments alone, and read only what has been written.

    Yields the names of the kernels that have run. New memory is full of NaN, so a NaN that is read was not
    written. Raises AssertionError within the kernel.
    """
    from triton.runtime.interpreter import GridExecutor, InterpreterBuilder

    call, load, store = (
        GridExecutor.__call__,
        *map(InterpreterBuilder.__dict__.get, ("create_masked_load", "create_masked_store")),
    )
    allowed, names = np.zeros(0, np.int64), set()

    def launch(self, *args, **kwargs):
        nonlocal allowed
        allowed = np.unique(np.concatenate([_addresses(x) for x in args if isinstance(x, Tensor)]))
        names.add(self.fn.__name__)
        return call(self, *args, **kwargs)

    def check(pointers, mask) -> None:
        touched = np.asarray(pointers.data).astype(np.int64)[np.broadcast_to(mask.data, pointers.data.shape)]
        assert np.isin(touched, allowed).all(), "memory that is of no argument"

    def loading(self, pointers, mask, *others):
        check(pointers, mask)
        values = load(self, pointers, mask, *others)
        shown = np.asarray(values.data)[np.broadcast_to(mask.data, values.data.shape)]
        assert not np.isnan(shown).any(), "memory that nothing has written"
        return values

    def storing(self, pointers, values, mask, *others):
        check(pointers, mask)
        return store(self, pointers, values, mask, *others)

    with ExitStack() as patches:
        for owner, name, new in (
            (GridExecutor, "__call__", launch),
            (InterpreterBuilder, "create_masked_load", loading),
            (InterpreterBuilder, "create_masked_store", storing),
            (Tensor, "new_empty", _full_of_nan(Tensor.new_empty)),
            (torch, "empty_like", _full_of_nan(torch.empty_like)),
        ):
            patches.enter_context(patch.object(owner, name, new))
        yield names


def _full_of_nan(make):
    return lambda *args, **kwargs: make(*args, **kwargs).fill_(float("nan"))


def _addresses(tensor: Tensor) -> np.ndarray:
    """Where its elements are, in bytes."""
    at = np.zeros(1 if tensor.numel() else 0, np.int64)
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        at = np.unique(at[:, None] + np.arange(length) * stride)
    return at * tensor.element_size() + tensor.data_ptr()
