"""The norm of all gradients before clipping: the first thing to look at when a loss jumps."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from ufo.lightning_private import settings


class GradNorm(Callback):
    """Log `train/grad_norm` every `log_every_n_steps`: L2, of all processes' shards where they are sharded.

    DeepSpeed keeps its gradients to itself: there its engine's own norm is logged, one step late.
    """

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        every = settings(trainer).log_every_n_steps
        if every and (trainer.global_step + 1) % every == 0:
            norm = grad_norm(trainer, pl_module)
            if norm is not None:
                pl_module.log("train/grad_norm", norm)


def grad_norm(trainer: Trainer, pl_module: LightningModule) -> Tensor | float | None:
    """The norm as it stays on its device; None if there is no gradient."""
    engine = getattr(trainer.strategy, "deepspeed_engine", None)
    if engine is not None:
        norm = engine.get_global_grad_norm()
        return float(norm) if norm is not None and math.isfinite(norm) else None
    gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
    if not gradients and not isinstance(trainer.strategy, FSDPStrategy):
        return None
    norm = get_total_norm(gradients) if gradients else torch.zeros((), device=pl_module.device)
    if hasattr(norm, "full_tensor"):  # FSDP2: a sharded tensor that knows its norm
        return norm.full_tensor()
    if isinstance(trainer.strategy, FSDPStrategy) and dist.is_initialized():
        squared = norm.square()
        dist.all_reduce(squared)
        return squared.sqrt()
    return norm
