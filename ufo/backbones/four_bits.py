"""Linear layers whose frozen weights take four bits each (QLoRA, arXiv 2305.14314), by bitsandbytes.

A weight is one of the 16 values of NF4, times the largest absolute value of its block of 64. The packed
weights are no parameters: whoever saves a model leaves them out, as a file holds the original ones.
Shapes: weight `[out, in]`, packed `[out*in / 2, 1]`, scales `[out*in / 64]`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 64  # weights that share a scale


def check_installed() -> None:
    """Raises ValueError where bitsandbytes is missing."""
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ValueError("lora.bits=4 needs bitsandbytes: pip install 'ufo-vision[qlora]'") from error


class FourBitLinear(nn.Module):
    """Stands for a frozen linear layer; `device`: where its weights are packed and stay."""

    def __init__(self, linear: nn.Linear, device: torch.device | None = None):
        super().__init__()
        from bitsandbytes.functional import quantize_4bit

        weight = linear.weight.detach()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.dtype = weight.dtype
        self.bias = linear.bias
        self.packed: Tensor
        if weight.is_meta:
            blocks = -(-weight.numel() // BLOCK)
            self.packed = weight.new_empty(-(-weight.numel() // 2), 1, dtype=torch.uint8)
            self.scales = weight.new_empty(blocks, dtype=torch.float32)
            self.values = weight.new_empty(16, dtype=torch.float32)
        else:
            self.packed, state = quantize_4bit(weight.to(device), blocksize=BLOCK, quant_type="nf4")
            self.scales, self.values = state.absmax, state.code

    def _state(self, *shape: int) -> Any:
        from bitsandbytes.functional import QuantState

        return QuantState(
            absmax=self.scales,
            shape=torch.Size(shape),
            code=self.values,
            blocksize=BLOCK,
            quant_type="nf4",
            dtype=self.dtype,
        )

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` -> `[..., out]`; the backward pass unpacks the weights again and keeps none."""
        import bitsandbytes

        out: Tensor
        if self.in_features % BLOCK:
            out = _Product.apply(x, self)
        else:
            state = self._state(self.out_features, self.in_features)
            out = bitsandbytes.matmul_4bit(x, self.packed.t(), quant_state=state, bias=self.bias)
        return out

    @property
    def weight(self) -> Tensor:
        """What the packed weights stand for, `[out, in]`."""
        from bitsandbytes.functional import dequantize_4bit

        size = self.out_features, self.in_features
        unpacked: Tensor = dequantize_4bit(self.packed, self._state(1, size[0] * size[1]))
        return unpacked.view(size)

    def unpacked(self) -> nn.Linear:
        """A linear layer that computes the same."""
        with torch.device("meta"):
            linear = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None)
        linear.weight = nn.Parameter(self.weight, requires_grad=False)
        linear.bias = self.bias
        return linear

    @property
    def stored(self) -> int:
        """Bytes of packed weights and scales."""
        return sum(x.numel() * x.element_size() for x in (self.packed, self.scales, self.values))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FourBitLinear:
        """Moves with the model to another device; its types are what they are."""
        super()._apply(fn, recurse)
        for name in ("packed", "scales", "values"):
            held = getattr(self, name)
            moved = fn(held)
            setattr(self, name, moved if moved.dtype == held.dtype else held.to(moved.device))
        return self


class _Product(torch.autograd.Function):
    """What bitsandbytes computes, where blocks reach across rows of the weight.

    There its kernel for CPUs with AVX-512 takes scales of other blocks (0.50.0, 0.50.2); of a single row, as
    which `weight` is unpacked, it does not.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FourBitLinear) -> Tensor:
        ctx.layer, ctx.kind = layer, x.dtype
        return F.linear(x, layer.weight.to(x.dtype), layer.bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return (gradient @ ctx.layer.weight.to(gradient.dtype)).to(ctx.kind), None
