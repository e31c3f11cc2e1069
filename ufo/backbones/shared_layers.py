"""The layers of a UFO-ViT as its streams see them in a training step, in which each passes all of them.

Autograd adds up the streams' gradients one weight at a time, and autocast casts each weight, and its
gradient back, on its own: a seventh of all pieces of work of a step. Here every stream has a layer's weights
under names of its own. They are cast together, and their gradients are added up and cast back together, in
the order in which autograd would meet them. What is cast lives as long as the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ufo.backbones.vit_layers import Layer, LayerFunctions
from ufo.ops.autocast import product_type


class SharedLayer(LayerFunctions):
    """A layer whose weights are given."""

    def __init__(self, layer: Layer, norms: Sequence[Tensor], products: Sequence[Tensor]):
        """`norms` are weights and biases of its norms, `products` those of its linear maps."""
        self.heads, self.windowed = layer.heads, layer.windowed
        self.drop, self.training = layer.drop, layer.training
        self.norm1, self.norm2 = (
            partial(F.layer_norm, normalized_shape=n.normalized_shape, weight=w, bias=b, eps=n.eps)
            for n, w, b in zip((layer.norm1, layer.norm2), norms[::2], norms[1::2], strict=True)
        )
        self.qkv, self.proj, self.fc1, self.fc2 = (
            partial(F.linear, weight=w, bias=b) for w, b in zip(products[::2], products[1::2], strict=True)
        )


def share(layers: Sequence[Layer], streams: int) -> Sequence[Sequence[LayerFunctions]]:
    """The layers of each of some streams, in the order in which these pass them.

    The layers themselves where ZeRO 3 watches their calls (its weights have a `ds_id`).
    """
    if any(hasattr(layer.rel_pos_h, "ds_id") for layer in layers):
        return [layers] * streams
    shared: list[list[SharedLayer]] = [[] for _ in range(streams)]
    for layer in layers:
        norms = _weights(layer.norm1, layer.norm2)
        products = _weights(layer.qkv, layer.proj, layer.fc1, layer.fc2)
        norms_of = _for_streams(norms, streams, norms[0].dtype)  # autocast leaves them as they are
        products_of = _for_streams(products, streams, product_type(products[0]))
        for mine, own_norms, own_products in zip(shared, norms_of, products_of, strict=True):
            mine.append(SharedLayer(layer, own_norms, own_products))
    return shared


def _for_streams(weights: Sequence[Tensor], streams: int, kind: torch.dtype) -> list[tuple[Tensor, ...]]:
    every: tuple[Tensor, ...] = _Shared.apply(streams, kind, *weights)
    return [every[i : i + len(weights)] for i in range(0, len(every), len(weights))]


def _weights(*modules: nn.LayerNorm | nn.Linear) -> list[Tensor]:
    return [weight for module in modules for weight in (module.weight, module.bias)]


class _Shared(torch.autograd.Function):
    """Weights of one type for each of some streams, in another type."""

    @staticmethod
    def forward(ctx: Any, streams: int, kind: torch.dtype, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)  # a stream may leave out weights of its last layer
        ctx.weights, ctx.kind = len(weights), weights[0].dtype
        given = _cast(weights, kind)
        return tuple(w.detach() for _ in range(streams) for w in given)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        # the last stream's gradients are the first that autograd meets
        parts = [[g for g in gradients[i :: ctx.weights][::-1] if g is not None] for i in range(ctx.weights)]
        met = [i for i, own in enumerate(parts) if own]
        sums = dict(zip(met, _cast(_added_up([parts[i] for i in met]), ctx.kind), strict=True))
        return None, None, *(sums.get(i) for i in range(ctx.weights))


def _cast(tensors: Sequence[Tensor], kind: torch.dtype) -> Sequence[Tensor]:
    """Tensors of one type in another one, or as they are."""
    if not tensors or tensors[0].dtype == kind:
        return tensors
    made = [torch.empty_like(x, dtype=kind) for x in tensors]
    torch._foreach_copy_(made, list(tensors))
    return made


def _added_up(parts: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """The sum of each sequence, from left to right."""
    sums = [own[0] for own in parts]
    for place in range(1, max(map(len, parts), default=0)):
        which = [i for i, own in enumerate(parts) if len(own) > place]
        mine, more = [sums[i] for i in which], [parts[i][place] for i in which]
        if place > 1:
            torch._foreach_add_(mine, more)
            continue
        for i, total in zip(which, torch._foreach_add(mine, more), strict=True):  # gradients stay as they are
            sums[i] = total
    return sums
