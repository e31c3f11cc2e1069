"""Recordings of a backbone's passes: what they read and when they are dropped.

A pass is recorded when its shapes come a second time. Its inputs are copied into fixed places, its results
are copied out before anything else is replayed: recordings may share all memory but these places.
"""

from __future__ import annotations

import threading
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ufo.backbones.base import Backbone

SHAPES = 1024  # shapes that are remembered for having come once
PATIENCE = 1024  # calls for which a recording that nobody needs keeps its place

Tensors = dict[str, Tensor]
Result = TypeVar("Result")


class Recorder(Protocol):
    """Records passes. An argument, so that all the rest is tested without a GPU."""

    def works_on(self, device: torch.device) -> bool:
        """Whether passes on this device can be recorded."""

    def record(self, function: Callable[[Tensors], Tensors], inputs: Tensors) -> Callable[[], Tensors]:
        """What computes `function(inputs)` again, of what `inputs` hold by then.

        Its results last until another recording is played.

        Raises RuntimeError where the function waits for the device.
        """

    def forget(self) -> None:
        """All recordings have been dropped."""


@dataclass
class Pass:
    """A call of a backbone, as it is recorded and replayed."""

    kind: tuple[Any, ...]  # its name, and all that it depends on besides tensors
    inputs: Tensors
    function: Callable[[Tensors], tuple[Tensors, Any]]  # gives results and what is no tensor
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)  # of inputs that are padded
    cleared: frozenset[str] = frozenset()  # inputs that stand before zeros, others before anything


class _Place:
    """Fixed memory of an input; recordings with inputs of one name and shape share it."""

    def __init__(self, like: Tensor, shape: Sequence[int]):
        self.tensor = torch.zeros(tuple(shape), dtype=like.dtype, device=like.device)
        self._holds: tuple[weakref.ref[Tensor], int] | None = None

    def holds(self, source: Tensor) -> bool:
        """Whether an input is there already."""
        held = self._holds
        return held is not None and held[0]() is source and held[1] == _version(source) >= 0

    def remember(self, source: Tensor) -> None:
        """An input has been copied there."""
        self._holds = weakref.ref(source), _version(source)

    def fill(self, source: Tensor, clear: bool) -> None:
        """Copy a smaller input there; `clear`: zeros behind it in every dimension."""
        self.tensor[tuple(slice(length) for length in source.shape)].copy_(source)
        for dim, length in enumerate(source.shape if clear else ()):
            if length < self.tensor.shape[dim]:
                self.tensor.narrow(dim, length, self.tensor.shape[dim] - length).zero_()


def _version(tensor: Tensor) -> int:
    """How often it has been written to; -1 where nobody counts."""
    return -1 if tensor.is_inference() else tensor._version


@dataclass
class _Recording:
    places: dict[str, _Place]
    play: Callable[[], Tensors]
    told: Any  # what the pass gave that is no tensor
    used: int = 0  # the last call that replayed it


def copied(tensors: Tensors) -> Tensors:
    """Copies of results, which the next recording destroys; a few launches for all of them."""
    own = {name: torch.empty_like(x) for name, x in tensors.items()}
    torch._foreach_copy_(list(own.values()), list(tensors.values()))
    return own


class Calls(nn.Module):
    """A function of a backbone as the call of a module, for `functional_call`."""

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, function: Callable[[], Result]) -> Result:
        return function()


class Recordings:
    """The recordings of one backbone, at most `most` of them.

    The one not used for longest makes room for another, but not before `PATIENCE` calls without it: recording
    takes longer than computing, and answers of more tokens would drop each one before its next use.
    """

    def __init__(self, backbone: Backbone, recorder: Recorder, most: int):
        self._backbone, self._recorder, self._most = backbone, recorder, most
        self._lock = threading.RLock()  # all read and write the same places
        self._warned: set[str] = set()
        self._start()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._backbone, self._recorder, self._most)  # a copied model records anew

    def __len__(self) -> int:
        return len(self._recordings)

    def _start(self) -> None:
        self._recordings: OrderedDict[Any, _Recording] = OrderedDict()
        self._once: OrderedDict[Any, None] = OrderedDict()
        self._refused: set[Any] = set()
        self._places: weakref.WeakValueDictionary[Any, _Place] = weakref.WeakValueDictionary()
        self._casts: dict[torch.dtype, Tensors] = {}
        self._weights: tuple[int, ...] = ()
        self._calls = 0

    def forget(self) -> None:
        """Drop everything."""
        with self._lock:
            if self._once or self._recordings or self._casts:
                self._start()
                self._recorder.forget()

    def follow_weights(self) -> None:
        """Drop recordings whose weights lie elsewhere by now. What changed in its place is read anew."""
        with self._lock:
            weights = tuple(parameter.data_ptr() for parameter in self._backbone.parameters())
            if weights != self._weights:
                self.forget()
                self._weights = weights
            for casts in filter(None, self._casts.values()):
                now: list[Tensor] = [self._backbone.get_parameter(name) for name in casts]
                torch._foreach_copy_(list(casts.values()), now)  # a few launches for all

    def run(
        self, wanted: Pass, device: torch.device, take: Callable[[Tensors, Any], Result]
    ) -> Result | None:
        """What `take` makes of the results and of what is no tensor; None where the pass is not replayed.

        `take` must copy what it returns.
        """
        enabled = torch.is_autocast_enabled(device.type)
        kind = torch.get_autocast_dtype(device.type) if enabled else None
        shapes = {name: wanted.shapes.get(name, tuple(x.shape)) for name, x in wanted.inputs.items()}
        types = tuple((name, shape, wanted.inputs[name].dtype) for name, shape in shapes.items())
        key = (wanted.kind, device, kind, types)
        with self._lock:
            found = self._recordings.get(key)
            if found is None and self._comes_again(key) and self._has_room():
                found = self._record(key, wanted, shapes, kind)
            if found is None:
                return None
            self._calls += 1
            found.used = self._calls
            self._recordings.move_to_end(key)
            self._fill(found.places, wanted)
            return take(found.play(), found.told)

    def _comes_again(self, key: Any) -> bool:
        if key in self._refused:
            return False
        if key in self._once:
            return True
        self._once[key] = None
        if len(self._once) > SHAPES:
            self._once.popitem(last=False)
        return False

    def _has_room(self) -> bool:
        if len(self._recordings) < self._most:
            return True
        self._calls += 1  # a call that waits for a place
        return self._calls - next(iter(self._recordings.values())).used > PATIENCE

    def _fill(self, places: dict[str, _Place], wanted: Pass) -> None:
        missing = {name: place for name, place in places.items() if not place.holds(wanted.inputs[name])}
        whole: dict[torch.dtype, list[tuple[Tensor, Tensor]]] = {}
        for name, place in missing.items():
            source = wanted.inputs[name]
            if source.shape == place.tensor.shape:
                whole.setdefault(source.dtype, []).append((place.tensor, source))
            else:
                place.fill(source, name in wanted.cleared)
        for pairs in whole.values():  # a few launches for all
            torch._foreach_copy_([place for place, _ in pairs], [source for _, source in pairs])
        for name, place in missing.items():
            place.remember(wanted.inputs[name])

    def _record(
        self, key: Any, wanted: Pass, shapes: dict[str, tuple[int, ...]], kind: torch.dtype | None
    ) -> _Recording | None:
        places = {name: self._place(name, x, shapes[name]) for name, x in wanted.inputs.items()}
        self._fill(places, wanted)
        run, told = self._runs(wanted, key[1], kind), None

        def function(inputs: Tensors) -> Tensors:
            nonlocal told
            results, told = run(inputs)
            return results

        try:
            play = self._recorder.record(function, {name: place.tensor for name, place in places.items()})
        except RuntimeError as error:
            self._refuse(key, error)
            return None
        made = self._recordings[key] = _Recording(places, play, told)
        if len(self._recordings) > self._most:
            self._recordings.popitem(last=False)
        return made

    def _runs(
        self, wanted: Pass, device: torch.device, kind: torch.dtype | None
    ) -> Callable[[Tensors], tuple[Tensors, Any]]:
        """The function of a pass as it is recorded, with weights that are cast already."""
        casts = {f"backbone.{name}": cast for name, cast in self._cast(kind).items()}
        calls = Calls(self._backbone)

        def run(inputs: Tensors) -> tuple[Tensors, Any]:
            # what autocast remembers goes with the batch; what a recording reads must stay
            with torch.autocast(device.type, kind, cache_enabled=False) if kind else nullcontext():
                call = (lambda: wanted.function(inputs),)
                found: tuple[Tensors, Any] = functional_call(calls, casts, call, tie_weights=False)
            return found

        return run

    def _place(self, name: str, like: Tensor, shape: tuple[int, ...]) -> _Place:
        key = (name, shape, like.dtype, like.device)
        place = self._places.get(key)
        if place is None:
            self._places[key] = place = _Place(like, shape)
        return place

    def _cast(self, kind: torch.dtype | None) -> Tensors:
        """The weights that autocast would cast in every call, cast once and for all recordings.

        Adapters compute with the weights below them in ways of their own: those are left alone.
        """
        if kind is None or self._backbone.lora:
            return {}
        if kind not in self._casts:
            kinds, head = (nn.Linear, nn.Conv2d), self._backbone.output_embedding
            self._casts[kind] = {
                f"{path}.{name}": weight.detach().to(kind)
                for path, module in self._backbone.named_modules()
                if type(module) in kinds
                for name, weight in module.named_parameters(recurse=False)
                if weight.dtype == torch.float32 and weight is not head
            }
        return self._casts[kind]

    def _refuse(self, key: Any, error: RuntimeError) -> None:
        """Passes of these shapes run as they do without recordings, and it is said once."""
        if isinstance(error, torch.OutOfMemoryError):
            self.forget()
        self._refused.add(key)
        name = str(key[0][0])
        if name not in self._warned:
            self._warned.add(name)
            line = (str(error).splitlines() or [type(error).__name__])[0]
            kind = type(self._backbone).__name__
            warnings.warn(f"`{name}` of {kind} is not recorded and runs as without: {line}", stacklevel=2)
