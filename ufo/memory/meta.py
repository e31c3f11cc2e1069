"""A training step on the meta device: nothing is computed, and what it would hold is counted.

`LiveBytes` follows each storage from the operation that makes it until the last tensor of it is gone, saved
ones of the backward pass included. `MetaAutocast` does what autocast does on a GPU, which the meta device
lacks, and takes the fused attention, which keeps no scores.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import _engine_run_backward
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

from ufo.backbones.lora import in_four_bits
from ufo.ops.autocast import said_of_meta

# functions that autocast computes in half precision, and in float32, by their names in torch
_HALF = frozenset(
    [
        "linear",
        "matmul",
        "__matmul__",
        "__rmatmul__",
        "bmm",
        "baddbmm",
        "mm",
        "addmm",
        "einsum",
        "conv1d",
        "conv2d",
        "conv3d",
    ]
)
_FULL = frozenset(
    [
        "layer_norm",
        "softmax",
        "log_softmax",
        "cross_entropy",
        "nll_loss",
        "exp",
        "log",
        "pow",
        "rsqrt",
        "sum",
        "prod",
        "cumsum",
        "cumprod",
        "norm",
        "logsumexp",
        "binary_cross_entropy_with_logits",
        "softplus",
    ]
)
_ATTENTION = "scaled_dot_product_attention"


class MetaAutocast(TorchFunctionMode):
    """Casts as autocast does on a GPU and remembers the casts of trained weights until `forget`.

    `half`: the type to cast to; None casts nothing.
    """

    def __init__(self, half: torch.dtype | None) -> None:
        super().__init__()
        self.half = half
        self._weights: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def forget(self) -> None:
        """As the end of an `autocast` block does."""
        self._weights.clear()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if self.half is not None and (name in _HALF or name == _ATTENTION):
            args, kwargs = tree_map_only(Tensor, self._to_half, (args, kwargs))
        elif self.half is not None and name in _FULL:
            args, kwargs = tree_map_only(Tensor, _to_full, (args, kwargs))
        if name == _ATTENTION and args[0].is_meta:
            return _fused_attention(*args, **kwargs)
        return func(*args, **kwargs)

    def _to_half(self, value: Tensor) -> Tensor:
        if value.dtype != torch.float32:
            return value
        if not (value.is_leaf and value.requires_grad):
            return value.to(self.half)
        if value not in self._weights:
            self._weights[value] = value.to(self.half)
        return self._weights[value]


def _to_full(value: Tensor) -> Tensor:
    return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value


def _fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Keeps its arguments, the output and a number per query, as the kernels of GPUs do."""
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    if attn_mask is None:
        flash = torch.ops.aten._scaled_dot_product_flash_attention
        return flash(query, key, value, dropout_p, is_causal, scale=scale)[0]
    if attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, -torch.inf)
    bias = attn_mask.expand(*query.shape[:-1], key.shape[-2])
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    return efficient(query, key, value, bias, True, dropout_p, is_causal, scale=scale)[0]


class _Shapes:
    """Remembers what operations on the meta device give: layers repeat, and working it out takes long."""

    def __init__(self) -> None:
        self._known: dict[Hashable, Any] = {}
        self._fresh: dict[Any, bool] = {}  # operation -> whether its results may be new tensors

    def call(self, func: Any, args: Any, kwargs: Any) -> Any:
        """`func(*args, **kwargs)`, or new tensors of the same shapes."""
        if func not in self._fresh:
            self._fresh[func] = not (func.is_view or func._schema.is_mutable)
        if not self._fresh[func]:
            return func(*args, **kwargs)
        leaves, structure = tree_flatten((args, kwargs))
        tensors = [x for x in leaves if isinstance(x, Tensor)]
        if not tensors or not all(x.is_meta for x in tensors):
            return func(*args, **kwargs)
        # in words: torch 2.6 cannot look up a structure itself
        key = (func, str(structure), *(_like(x) if isinstance(x, Tensor) else (type(x), x) for x in leaves))
        if (found := self._known.get(key)) is not None:
            return found.made() if isinstance(found, _Like) else tree_map_only(_Like, _Like.made, found)
        out = func(*args, **kwargs)
        inputs = {id(x.untyped_storage()) for x in tensors}
        made = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        if made and not any(id(x.untyped_storage()) in inputs for x in made):
            self._known[key] = tree_map_only(Tensor, lambda x: _Like(*_like(x)), out)
        return out


def _like(tensor: Tensor) -> tuple[torch.Size, tuple[int, ...], torch.dtype]:
    """What tells a tensor without values from others."""
    return tensor.shape, tensor.stride(), tensor.dtype


@dataclass(frozen=True)
class _Like:
    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype

    def made(self) -> Tensor:
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device="meta")


_SHAPES = _Shapes()


class LiveBytes(TorchDispatchMode):
    """Bytes of all storages made inside that still live: `now`, and `peak`, the most so far.

    What depends on values is answered as if nothing were special: no number is too large, every row occurs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._live: dict[int, tuple[int, weakref.ref[Any]]] = {}  # storage -> bytes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        meta = bool(args) and isinstance(args[0], Tensor) and args[0].is_meta
        if meta and name == "_local_scalar_dense":
            return 0
        if meta and name == "unique_consecutive":
            return args[0], torch.empty_like(args[0]), torch.empty_like(args[0])
        out = _SHAPES.call(func, args, kwargs)
        for leaf in (out,) if isinstance(out, Tensor) else tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._add(leaf)
        return out

    def _add(self, tensor: Tensor, counted: bool = True) -> None:
        storage = tensor.untyped_storage()
        number = id(storage)  # of no other storage while this one lives
        before, reference = self._live.get(number, (0, None))
        if reference is not None and counted:
            return
        size = storage.nbytes() if counted else 0
        self._live[number] = size, reference or weakref.ref(storage, lambda _: self._gone(number))
        self.now += size - before
        self.peak = max(self.peak, self.now)

    def _gone(self, number: int) -> None:
        self.now -= self._live.pop(number)[0]

    def leave_out(self, tensor: Tensor) -> None:
        """Do not count a tensor's storage, now and later: it belongs to something else."""
        self._add(tensor, counted=False)


@dataclass(frozen=True)
class Activations:
    """Bytes that a training step holds beside weights, gradients and optimizer state."""

    saved: int  # between the forward and the backward pass
    peak: int  # at most


@contextmanager
def _without_weights(model: nn.Module, live: LiveBytes) -> Iterator[None]:
    """Weights and their gradients are not counted as activations; the gradients are gone afterwards."""
    packed = [module.packed for module in in_four_bits(model)]
    for tensor in (*model.parameters(), *model.buffers(), *packed):
        live.leave_out(tensor)
    trained = [p for p in model.parameters() if p.requires_grad]
    hooks = [p.register_post_accumulate_grad_hook(lambda p: live.leave_out(p.grad)) for p in trained]
    try:
        yield
    finally:
        for hook, weight in zip(hooks, trained, strict=True):
            hook.remove()
            weight.grad = None


def _backward(loss: Tensor) -> None:
    """`loss.backward()` inside of the modes: that method leaves them, and layers are computed again in it."""
    arguments = (loss,), (torch.ones_like(loss),), False, False, ()
    _engine_run_backward(*arguments, allow_unreachable=True, accumulate_grad=True)


def activations(model: nn.Module, loss: Any, half: torch.dtype | None) -> Activations:
    """Run `loss()`, which computes one with a model on the meta device, and its backward pass."""
    casting = said_of_meta(half) if half else nullcontext()
    with LiveBytes() as live, _without_weights(model, live), MetaAutocast(half) as autocast, casting:
        total = loss()
        autocast.forget()
        saved = live.now
        _backward(total)
    return Activations(saved, live.peak)
