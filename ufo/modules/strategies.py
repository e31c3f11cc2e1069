"""How a training is spread over processes: what conf/trainer/*.yaml name (docs/cluster.md).

DDP copies the model. FSDP (PyTorch's second one), and ZeRO 3 of `ufo.modules.zero`, shard weights, gradients
and optimizer state and gather the weights once per batch: answers are decoded for as long as each image
needs, so processes cannot gather layer by layer. Every strategy writes the same whole checkpoints.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.optim import Optimizer

from ufo.lightning_private import SizedModelParallel

ENTRIES = ("training_pass", "loss", "predict_batch", "encode")
"""The methods of `UFO` that a LightningModule calls."""


def ddp(timeout_minutes: float = 30, **settings: Any) -> DDPStrategy:
    """A copy of the model per process, gradients averaged; a process waits `timeout_minutes` for another.

    A batch holds one task and no task uses all weights, so DDP looks for the unused ones in every step.
    """
    settings = {"find_unused_parameters": True, "gradient_as_bucket_view": True, **settings}
    return DDPStrategy(timeout=timedelta(minutes=timeout_minutes), **settings)


class FSDP(SizedModelParallel):
    """Weights, gradients and optimizer state in equal parts; checkpoints are whole and in one file.

    So a run goes on with any number of processes and any other strategy but DeepSpeed.
    """

    def __init__(self, timeout_minutes: float = 30, process_group_backend: str | None = None) -> None:
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            process_group_backend=process_group_backend,
            timeout=timedelta(minutes=timeout_minutes),
        )

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """The whole state on process 0, numbered in the order of the optimizer's groups as everywhere else.

        Lightning would number by the model's order, which is another one where groups differ in their rates.
        """
        optimizer = getattr(optimizer, "optimizer", optimizer)  # Lightning may have wrapped it
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state: dict[str, Any] = dict(get_optimizer_state_dict(self._whole(), optimizer, options=options))
        if not state:
            return state
        number = {name: i for i, name in enumerate(self._names(optimizer))}
        groups = [{**g, "params": [number[n] for n in g["params"]]} for g in state["param_groups"]]
        return {"state": {number[n]: v for n, v in state["state"].items()}, "param_groups": groups}

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Every process reads the file (mapped, not copied) and keeps its parts."""
        path = Path(self.broadcast(checkpoint_path))
        checkpoint = torch.load(path, mmap=True, map_location="cpu", weights_only=weights_only)
        options = StateDictOptions(full_state_dict=True)
        set_model_state_dict(self._whole(), checkpoint.pop("state_dict"), options=options)
        for optimizer, state in zip(self.optimizers, checkpoint.get("optimizer_states", []), strict=False):
            names = self._names(optimizer)
            order = [i for g in state["param_groups"] for i in g["params"]]
            name = dict(zip(order, names, strict=True))
            groups = [{**g, "params": [name[i] for i in g["params"]]} for g in state["param_groups"]]
            values = {name[i]: v for i, v in state["state"].items()}
            named: dict[str, Any] = {"state": values, "param_groups": groups}
            set_optimizer_state_dict(self._whole(), optimizer, optim_state_dict=named, options=options)
        return checkpoint

    def _names(self, optimizer: Optimizer) -> list[str]:
        return [name for names in group_names(self._whole(), optimizer) for name in names]

    def _whole(self) -> nn.Module:
        assert self.model is not None  # set up before the first checkpoint
        return self.model


def group_names(module: nn.Module, optimizer: Optimizer) -> list[list[str]]:
    """The names of an optimizer's weights, one list per group."""
    names = {id(p): n for n, p in module.named_parameters()}
    return [[names[id(p)] for p in g["params"]] for g in optimizer.param_groups]


def for_evaluation(strategy: Any) -> Any:
    """The `trainer.strategy` of a config for evaluation: DeepSpeed needs an optimizer, so DDP stands in."""
    name = strategy if isinstance(strategy, str) else getattr(strategy, "_target_", "")
    return {"_target_": "ufo.modules.strategies.ddp"} if "deepspeed" in name.lower() else strategy


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Shard a `UFO` model over `mesh`, unit by unit, in place; `ENTRIES` gather it while they need it."""
    if isinstance(model, FSDPModule):
        return
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList)]
    units = [u for m in lists for u in m if any(True for _ in u.parameters())]
    for unit in units:
        if not isinstance(unit, (nn.ModuleList, FSDPModule)):
            fully_shard(unit, mesh=mesh, reshard_after_forward=False)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    for name in ENTRIES:
        register_fsdp_forward_method(model, name)
        _gathering(model, name)


def _gathering(model: nn.Module, name: str) -> None:
    """Let a method gather all units first: layers are called through other methods than `forward`."""
    method = getattr(model, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.unshard()
        return method(*args, **kwargs)

    setattr(model, name, call)
