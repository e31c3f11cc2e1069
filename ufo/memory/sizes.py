"""What each device keeps of a model between two steps, and gathers within one, by strategy.

Numbers of weights come from models built on the meta device, so a model of any size can be asked about.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ufo.backbones.lora import in_four_bits

STRATEGIES = ("ddp", "fsdp", "deepspeed_stage2", "deepspeed_stage3")
BUCKETS = 2 * 2 * 2e8  # bytes of two buckets of DeepSpeed's default size in bfloat16


@dataclass(frozen=True)
class Size:
    """Numbers of weights: all, those that train, and those of the largest layer."""

    total: int
    trained: int
    layer: int
    stored: int  # bytes of all
    stored_trained: int  # bytes of those that train


def size_of(model: nn.Module) -> Size:
    """Of a model, also of one without values."""
    weights = list(model.parameters())
    trained = [p for p in weights if p.requires_grad]
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList)]
    layers = [_numbers(layer.parameters()) for m in lists for layer in m]
    packed = in_four_bits(model)
    numbers = _numbers(weights) + sum(m.in_features * m.out_features for m in packed)
    stored = _bytes(weights) + sum(m.stored for m in packed)
    return Size(numbers, _numbers(trained), max(layers, default=0), stored, _bytes(trained))


def _numbers(weights) -> int:
    return sum(p.numel() for p in weights)


def _bytes(weights) -> int:
    return sum(p.numel() * p.element_size() for p in weights)


def moments_of(optimizer: partial[Optimizer]) -> int:
    """How many numbers an optimizer remembers for each weight: 2 for AdamW. It makes a step to tell."""
    weight = nn.Parameter(torch.zeros(3, 5))
    made = optimizer([weight])
    weight.grad = torch.ones_like(weight)
    made.step()
    state = made.state[weight].values()
    return sum(isinstance(value, Tensor) and value.shape == weight.shape for value in state)


@dataclass(frozen=True)
class Held:
    """Bytes that one device keeps between two steps."""

    weights: float
    gradients: float
    optimizer: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer


def held(strategy: str, size: Size, n: int, half: bool = True, moments: int = 2) -> Held:
    """What each of `n` devices keeps; `moments` are an optimizer's numbers per weight, 2 of AdamW.

    `half`: training in half precision. DDP and FSDP keep the weights as they are (autocast), DeepSpeed keeps
    bfloat16 ones and a float32 copy in parts.
    """
    if strategy == "ddp":
        return Held(size.stored, size.stored_trained, moments * size.stored_trained)
    if strategy == "fsdp":
        return Held(size.stored / n, size.stored_trained / n, moments * size.stored_trained / n)
    low = 2 if half else 4
    copy = 4  # ZeRO's float32 master weights, also beside float32 ones
    parts = n if strategy == "deepspeed_stage3" else 1
    trained = size.trained / n
    return Held(low * size.total / parts, low * trained, (copy + 4 * moments) * trained)


def gathered(strategy: str, size: Size, n: int) -> float:
    """Bytes more while a step runs: weights gathered from the other devices, and buckets on their way."""
    others = 1 - 1 / n
    return {
        "ddp": 0.0,
        "fsdp": size.stored * others + 2 * 4 * size.layer,
        "deepspeed_stage2": BUCKETS,
        "deepspeed_stage3": 2 * size.total * others + BUCKETS,
    }[strategy]


def rounded(strategy: str, size: Size) -> float:
    """Bytes of autocast's bfloat16 copies of float32 weights. DeepSpeed's weights are bfloat16 already."""
    return 2.0 * size.total if strategy in ("ddp", "fsdp") else 0.0
