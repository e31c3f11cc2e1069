"""Recording a pass on a GPU: a CUDA graph, whose hundreds of kernels take one launch.

A graph repeats kernels on the memory that they had when it was captured. So its inputs stay where they are
and what it reads besides is kept alive. Its results lie in memory that other graphs use too, in one pool.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Tensors = dict[str, Tensor]


class CudaGraphs:
    """The `Recorder` of `ufo.head.replay` for CUDA."""

    def __init__(self) -> None:
        self._stream: torch.cuda.Stream | None = None
        self._pool: Any = None

    def __reduce__(self) -> tuple[type[CudaGraphs], tuple[()]]:
        return CudaGraphs, ()  # a copy of a model records anew

    def works_on(self, device: torch.device) -> bool:
        """Whether it is a CUDA device."""
        return device.type == "cuda"

    def record(self, function: Callable[[Tensors], Tensors], inputs: Tensors) -> Callable[[], Tensors]:
        """Capture `function(inputs)`; raises RuntimeError where it waits for the device.

        Two calls come before it: in the first one libraries and remembered constants set themselves up, the
        second finds out whether the function waits, which would spoil a capture.
        """
        with torch.cuda.device(next(iter(inputs.values())).device):
            stream = self._stream = self._stream or torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            try:
                with torch.cuda.stream(stream):
                    function(inputs)
                    with _no_waiting():
                        function(inputs)
            finally:  # also if it failed: the memory of its inputs, which it still reads, is free then
                torch.cuda.current_stream().wait_stream(stream)
            graph, outside = torch.cuda.CUDAGraph(), _ReadFromOutside()
            # other threads may go on using the device meanwhile
            capture = torch.cuda.graph(
                graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"
            )
            with _keep_garbage(), capture, outside:
                results = function(inputs)
            self._pool = self._pool or graph.pool()

        def play(kept: Any = outside.tensors) -> Tensors:
            graph.replay()
            return results

        return play

    def forget(self) -> None:
        """The pool goes with the last graph that was captured into it."""
        if self._pool is not None:
            torch.cuda.synchronize()  # the last replay may not have ended
        self._stream = self._pool = None  # the next weights may lie on another device


@contextmanager
def _keep_garbage() -> Iterator[None]:
    """Inside, no garbage is collected: a graph among it would be destroyed, which spoils a capture."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@contextmanager
def _no_waiting() -> Iterator[None]:
    """Inside, an operation that waits for the device raises RuntimeError."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it may overlook something
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


class _ReadFromOutside(TorchDispatchMode):
    """The tensors that operations read and did not make: weights, and constants that a cache may drop."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tensors: dict[int, Tensor] = {}  # by storage
        self._made: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in _tensors_in((args, kwargs)):
            if (storage := tensor.untyped_storage()._cdata) not in self._made:
                self.tensors[storage] = tensor
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors_in(result):
            if (storage := tensor.untyped_storage()._cdata) not in self.tensors:
                self._made.add(storage)
        return result


def _tensors_in(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]
