"""DeepSpeed's ZeRO 2 and 3 as a strategy with the checkpoints of all others (docs/cluster.md).

Weights are gathered once per batch: answers are decoded for as long as each image needs, so processes cannot
gather layer by layer. Runs on GPUs (NCCL) and CPUs (gloo).
"""

from __future__ import annotations

from argparse import Namespace
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from importlib.util import find_spec
from typing import Any

import torch
from lightning.pytorch.plugins.precision import DeepSpeedPrecision
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch import Tensor, nn

from ufo.lightning_private import ConfiguredDeepSpeed
from ufo.modules.strategies import group_names

IN_USE = -1  # no module has this number: DeepSpeed keeps weights that a module uses


class _Precision(DeepSpeedPrecision):
    """Leaves batches alone: boxes in bfloat16 would be pixels off."""

    def convert_input(self, data: Any) -> Any:
        return data


class DeepSpeed(ConfiguredDeepSpeed):
    """DeepSpeed's ZeRO 2 (parts of gradients and optimizer state) or 3 (also of the weights), for training.

    Its own checkpoints fit one number of processes only, so whole ones are gathered and written instead. It
    updates every weight in every step, also those that a batch does not use: AdamW then differs from DDP's.

    Args:
        stage: 2 or 3.
        timeout_minutes: how long a process waits for another.
        settings: further ones of Lightning's DeepSpeedStrategy.
    """

    def __init__(self, stage: int, timeout_minutes: float = 30, **settings: Any) -> None:
        if stage not in (2, 3):
            raise ValueError(f"trainer.strategy.stage must be 2 or 3, not {stage}")
        if find_spec("deepspeed") is None:
            raise ValueError(
                f"trainer=deepspeed_stage{stage} needs DeepSpeed: pip install -e '.[deepspeed]', or take "
                "trainer=fsdp, which needs nothing"
            )
        super().__init__(stage=stage, timeout=timedelta(minutes=timeout_minutes), **settings)
        self._step = ExitStack()  # what a training step holds until its backward pass is over
        self._groups: list[list[str]] = []  # names of the optimizer's weights, before ZeRO flattens them

    def setup_environment(self) -> None:
        precision: Any = (
            self.precision_plugin.precision
        )  # a wider type than DeepSpeed takes; it checks itself
        self.precision_plugin = _Precision(precision)
        DDPStrategy.setup_environment(self)  # without Lightning's check for CUDA: it runs on CPUs (gloo) too

    def complete(self) -> None:
        """Mixed precision as with other strategies: float32 weights under autocast, not bfloat16 weights."""
        if self.precision_plugin.precision == "bf16-mixed" and self.config is not None:
            self.config.setdefault("bf16", {"enabled": False})
            self.config.setdefault("torch_autocast", {"enabled": True, "dtype": "bfloat16"})

    def setup_distributed(self) -> None:
        if self.root_device.type == "cuda":
            return super().setup_distributed()
        from deepspeed import ops

        ops.__compatible_ops__["deepspeed_shm_comm"] = False  # a faster gloo that would be compiled first
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    def _setup_model_and_optimizer(self, model: Any, optimizer: Any, lr_scheduler: Any = None) -> Any:
        import deepspeed

        self._groups = group_names(self._module, optimizer) if optimizer else []
        engine, optimizer, _, _ = deepspeed.initialize(
            args=Namespace(device_rank=self.local_rank),
            config=self.config,
            model=model,
            model_parameters=[p for p in model.parameters() if p.requires_grad],
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            dist_init_required=False,
        )
        return engine, optimizer

    @property
    def _module(self) -> nn.Module:
        assert self.lightning_module is not None  # connected before anything else happens
        return self.lightning_module

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Under ZeRO 3 every process has all weights inside, and its hooks neither gather nor drop any."""
        import deepspeed

        weights: list[Any] = [w for w in self._module.parameters() if hasattr(w, "ds_id")]
        with deepspeed.zero.GatheredParameters(weights, enabled=bool(weights)):
            for weight in weights:
                weight.ds_active_sub_modules.add(IN_USE)
            try:
                yield
            finally:
                for weight in weights:
                    weight.ds_active_sub_modules.clear()

    def training_step(self, *arguments: Any, **named: Any) -> Any:
        self._step.enter_context(self._whole())
        return super().training_step(*arguments, **named)

    def backward(self, *arguments: Any, **named: Any) -> Tensor:
        loss = super().backward(*arguments, **named)
        self._step.close()
        return loss

    def validation_step(self, *arguments: Any, **named: Any) -> Any:
        with self._whole(), _without_hooks(self._module):
            return super().validation_step(*arguments, **named)

    # checkpoints are read before DeepSpeed sees the model, as under DDP
    restore_checkpoint_after_setup = False
    lightning_restore_optimizer = True
    load_checkpoint = Strategy.load_checkpoint
    load_model_state_dict = Strategy.load_model_state_dict
    save_checkpoint = Strategy.save_checkpoint

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The weights in full precision, on process 0; every process must call it."""
        from deepspeed.utils import safe_get_full_fp32_param

        state = self._module.state_dict()
        for name, weight in self._module.named_parameters(remove_duplicate=False):
            full = safe_get_full_fp32_param(weight)
            if full is None:  # frozen: no optimizer knows it
                full = self._gathered(weight)
            state[name] = full.detach().to("cpu", copy=True) if self.is_global_zero else None
        return state if self.is_global_zero else {}

    def _gathered(self, weight: Tensor) -> Tensor:
        import deepspeed

        with deepspeed.zero.GatheredParameters([weight], enabled=self.zero_stage_3):
            return weight.detach().clone()

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """The whole state on process 0, in the form of the optimizer without DeepSpeed."""
        from deepspeed.utils import safe_get_full_optimizer_state

        zero: Any = self.optimizers[0]  # DeepSpeed's, around the one of the config
        state: dict[int, Any] = {}
        number = 0
        keys, scalars = self._state_keys(zero)
        self._link_state(zero)
        weights = dict(self._module.named_parameters())
        groups: list[dict[str, Any]] = []
        for names, group in zip(self._groups, zero.optimizer.param_groups, strict=True):
            settings = {k: v for k, v in group.items() if k != "params"}
            groups.append({**settings, "params": list(range(number, number + len(names)))})
            for name in names:
                whole = {k: safe_get_full_optimizer_state(weights[name], k) for k in keys}
                if self.is_global_zero:
                    state[number] = {**{k: v.to("cpu", copy=True) for k, v in whole.items()}, **scalars}
                number += 1
        return {"state": state, "param_groups": groups} if self.is_global_zero else {}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Every process keeps its parts of the state that `optimizer_state` gave, and of the weights."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        zero: Any = self.optimizers[0]
        (saved,) = checkpoint["optimizer_states"]
        weights = dict(self._module.named_parameters())
        for group, values in zip(zero.optimizer.param_groups, saved["param_groups"], strict=True):
            group.update({k: v for k, v in values.items() if k != "params"})
        order = [i for values in saved["param_groups"] for i in values["params"]]
        self._make_state(zero, saved["state"])
        names = [name for group in self._groups for name in group]
        for name, number in zip(names, order, strict=True):
            # DeepSpeed's own copy came from weights that may have been rounded to bfloat16
            safe_set_full_fp32_param(weights[name], checkpoint["state_dict"][name].float())
            for key, value in saved["state"].get(number, {}).items():
                if value is not None and value.ndim:
                    safe_set_full_optimizer_state(weights[name], value, key)

    def _flat(self, zero: Any) -> list[Tensor]:
        """This process's flat parts of the weights, for which the optimizer inside has its state."""
        if self.zero_stage_3:
            return zero.fp32_partitioned_groups_flat
        return zero.single_partition_of_fp32_groups

    def _state_keys(self, zero: Any) -> tuple[list[str], dict[str, Any]]:
        """Names of the state's tensors, and what is one number for all weights (Adam's `step`)."""
        known = [zero.optimizer.state[p] for p in self._flat(zero) if zero.optimizer.state.get(p)]
        first = known[0] if known else {}
        keys = [k for k, v in first.items() if isinstance(v, Tensor) and v.ndim]
        return keys, {k: v for k, v in first.items() if k not in keys}

    def _make_state(self, zero: Any, saved: Mapping[int, Mapping[str, Any]]) -> None:
        """Room for a state before the first step has made it, with the numbers that all weights share."""
        latest = max(saved.values(), key=lambda s: float(s.get("step", 0)), default={})
        for part in self._flat(zero):
            for key, value in latest.items():
                zero.optimizer.state[part][key] = torch.zeros_like(part) if value.ndim else value.clone()
        self._link_state(zero)

    def _link_state(self, zero: Any) -> None:
        """Let ZeRO 2 find each weight's part of the state: it looks after the first group's step only."""
        if not self.zero_stage_3:
            zero._hp_optimizer_states_linked = False
            zero._lazy_init_hp_params_optimizer_state()


@contextmanager
def _without_hooks(model: nn.Module) -> Iterator[None]:
    """No forward hooks inside: an answer takes hundreds of small steps, and those of ZeRO 3 are slow."""
    kept = [(m, m._forward_hooks, m._forward_pre_hooks) for m in model.modules()]
    for module, *_ in kept:
        module._forward_hooks, module._forward_pre_hooks = OrderedDict(), OrderedDict()
    try:
        yield
    finally:
        for module, after, before in kept:
            module._forward_hooks, module._forward_pre_hooks = after, before
