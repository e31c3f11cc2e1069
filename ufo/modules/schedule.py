"""Learning rates: the linear layer-wise ramp, warm-up + cosine per optimizer step.

See docs/published_system.md#vit-recipe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ufo.backbones.base import Backbone
from ufo.backbones.lora import ADAPTER


@dataclass(frozen=True)
class LayerRamp:
    """Learning-rate factor of each parameter: `low` up to layer `first`, then linearly up to 1 at `last`.

    Parameters outside the layers (patches, positions) get `low`, text embeddings, output head and adapters 1.
    The paper's table calls this a decay of 0.85; the released configs are this ramp, and so are we.
    """

    low: float = 1.0
    first: int = 0
    last: int = 1

    def factor(self, layer: int | None, is_text: bool) -> float:
        if is_text:
            return 1.0
        if layer is None:
            return self.low
        part = (layer - self.first) / (self.last - self.first)
        return self.low + (1 - self.low) * min(max(part, 0.0), 1.0)


def parameter_groups(
    backbone: Backbone, others: Iterable[nn.Parameter], lr: float, ramp: LayerRamp
) -> list[dict]:
    """Optimizer groups, one per learning rate; parameters without gradient are left out.

    `others` are trained parameters outside the backbone; they get the full rate.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in backbone.named_parameters():
        if parameter.requires_grad:
            # an adapter starts from nothing, as new tokens do: the ramp spares what is pretrained
            new = backbone.is_text(name) or ADAPTER in name
            factor = ramp.factor(backbone.layer_of(name), new)
            groups.setdefault(factor, []).append(parameter)
    groups.setdefault(1.0, []).extend(p for p in others if p.requires_grad)
    return [
        {"params": params, "lr": lr * factor, "name": f"lr x{factor:.4g}"}
        for factor, params in sorted(groups.items())
        if params
    ]


def warmup_cosine(
    optimizer: Optimizer,
    max_steps: int,
    warmup_steps: int = 0,
    warmup_start: float = 0.1,
    min_lr: float = 0.0,
) -> LambdaLR:
    """Linear warm-up from `warmup_start` of each group's rate, then cosine down to the absolute `min_lr`.

    Steps are optimizer steps. As in the published schedule the cosine's period is `max_steps` although it
    begins after the warm-up.
    """

    def factor(peak: float) -> Callable[[int], float]:
        def at(step: int) -> float:
            if step < warmup_steps:
                return warmup_start + (1 - warmup_start) * step / warmup_steps
            part = min((step - warmup_steps) / max_steps, 1.0)
            floor = min(min_lr / peak, 1.0) if peak else 0.0
            return floor + (1 - floor) * (1 + math.cos(math.pi * part)) / 2

        return at

    return LambdaLR(optimizer, [factor(group["lr"]) for group in optimizer.param_groups])
