"""A recorder for the CPU that keeps to the rules of a CUDA graph: the same operations on the same memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

Tensors = dict[str, Tensor]
WAITS = {"_local_scalar_dense", "nonzero", "unique_consecutive", "equal"}  # a device would be waited for


class Tape(TorchDispatchMode):
    """The operations of a pass with the tensors that they read and wrote, as they stand."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self.made: list[Tensor] = []
        self.read: list[Tensor] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.overloadpacket.__name__ in WAITS:
            raise RuntimeError(f"{func.overloadpacket.__name__} waits for the device")
        result = func(*args, **kwargs)
        self.read += tensors((args, kwargs))
        read = {storage(x) for x in tensors((args, kwargs))}
        own = [x for x in tensors(result) if storage(x) not in read]
        if own or not func.is_view:
            # of a training pass they would know how they were made, and be made again
            self.steps.append(tree_map_only(Tensor, Tensor.detach, (func, args, kwargs, own)))
        self.made += own
        return result

    def play(self) -> None:
        for func, args, kwargs, own in self.steps:
            again = tensors(func(*args, **kwargs))
            if own:
                for old, new in zip(own, again, strict=True):
                    old.copy_(new)


class Tapes:
    """The recorder. All its recordings share their memory: what one computes, another one destroys."""

    def __init__(self) -> None:
        self.recorded: list[str] = []  # the pass of each recording
        self.chunks: list[int] = []  # tokens that recorded answers are fed
        self.played = self.forgotten = 0
        self.tapes: list[Tape] = []
        self._last: Tape | None = None

    def __reduce__(self) -> tuple[type[Tapes], tuple[()]]:
        return Tapes, ()

    def works_on(self, device: torch.device) -> bool:
        return True

    def record(self, function: Callable[[Tensors], Tensors], inputs: Tensors) -> Callable[[], Tensors]:
        function(inputs)
        tape = Tape()
        with tape:
            results = function(inputs)
        self.tapes.append(tape)
        self._destroy_last(tape)
        self.chunks += [x.shape[1] for name, x in results.items() if name == "hidden"]
        known = {"hidden": "answer", "features": "encode", "loss": "training"}
        self.recorded.append(next((known[name] for name in results if name in known), "prompt"))

        def play() -> Tensors:
            self.played += 1
            self._destroy_last(tape)
            with torch.autocast("cpu", enabled=False), torch.no_grad():
                tape.play()
            return results

        return play

    def _destroy_last(self, tape: Tape) -> None:
        if self._last is not None and self._last is not tape:
            for x in self._last.made:
                if x.is_floating_point():
                    x.fill_(torch.nan)
        self._last = tape

    def forget(self) -> None:
        self.forgotten += 1
        self.tapes.clear()


def waiting(encode: Callable[..., Any]) -> Callable[..., Any]:
    """A backbone's pass that waits for the device before it begins."""

    def passes(images: Tensor, *rest: Any, **more: Any) -> Any:
        assert int(images.sum()) >= 0
        return encode(images, *rest, **more)

    return passes


def tensors(values: Any) -> list[Tensor]:
    return [x for x in tree_leaves(values) if isinstance(x, Tensor)]


def storage(x: Tensor) -> int:
    return x.untyped_storage()._cdata
