"""The LightningModule around a UFO model: losses, optimizer groups, logging; no file format, no metric."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import lightning as L
import torch
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.strategies import DeepSpeedStrategy
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ufo.backbones.base import Backbone
from ufo.backbones.lora import frozen, held_elsewhere
from ufo.model import UFO
from ufo.modules.fused import fused_where_faster
from ufo.modules.recording import Graphs, records
from ufo.modules.schedule import LayerRamp, parameter_groups
from ufo.modules.strategies import FSDP, shard
from ufo.runs.finite import NonFiniteError, not_finite
from ufo.types import Batch, Prediction


class UFOModule(L.LightningModule):
    """Trains a `UFO` model on batches of a mixture; callbacks score what `validation_step` returns.

    `optimizer` and `schedule` are factories: optimizer(groups), a `functools.partial` with its `lr`, and
    schedule(optimizer). Without an optimizer the module only evaluates. A subclass names its backbone.
    """

    backbone_type: type[nn.Module] = Backbone
    compares_scores = False  # a callback may want predictions under all scores (`Prediction.under`)

    def __init__(
        self,
        model: UFO,
        optimizer: partial[Optimizer] | None = None,
        schedule: Callable[[Optimizer], LRScheduler] | None = None,
        ramp: LayerRamp | None = None,
        compile: bool = False,
        cuda_graphs: Graphs = "auto",
    ):
        super().__init__()
        if isinstance(model, UFO) and not isinstance(model.backbone, self.backbone_type):
            has, wants = type(model.backbone).__name__, self.backbone_type.__name__
            raise ValueError(
                f"{type(self).__name__} trains {wants}, not {has}; a backbone of yours takes "
                "backbone.module._target_=ufo.modules.base.UFOModule"
            )
        self.model = model
        self.identity: dict[str, Any] | None = None  # of the run (ufo.runs.identity), for its checkpoints
        self._optimizer, self._schedule = optimizer, schedule
        self._ramp = ramp or LayerRamp()
        self._compile = self.is_compiled = compile
        self._cuda_graphs = cuda_graphs
        if optimizer is not None:
            self.train()  # a loaded model is in `eval` mode, in which Lightning would leave it

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises TypeError: a checkpoint says which model to build, and this module takes a model."""
        raise TypeError(
            f"a {cls.__name__} is not loaded from a checkpoint: ufo.load({str(checkpoint_path)!r}) makes its "
            "model, trainer.fit(module, data, ckpt_path=...) trains on"
        )

    def forward(self, batch: Batch) -> list[Prediction]:
        """The predictions for an evaluation batch, as `trainer.predict` gives them."""
        return self.model.predict_batch(batch)

    def configure_model(self) -> None:
        if isinstance(self.trainer.strategy, FSDP):
            mesh = self.device_mesh
            assert mesh is not None  # the strategy has made it
            shard(self.model, mesh["data_parallel"])
        if self._compile:
            self._compile = False
            self.model.compile_backbone()
        if records(self._cuda_graphs, self.trainer.strategy):
            self.model.record_passes(training=self._cuda_graphs == "all")

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # dropout and sampled points follow from the batch alone: a resumed run repeats them exactly
        torch.manual_seed(batch.seed)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | dict[str, Any]:
        losses, tokens = self.model.training_pass(batch)
        names = {f"train/{batch.source}/{k}": v for k, v in losses.items()}
        self.log_dict(names, batch_size=len(batch))
        self.log("loss", losses["loss"], prog_bar=True, logger=False, batch_size=len(batch))
        return {"loss": losses["loss"], "tokens": tokens}  # callbacks see both

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """A `list[Prediction]`, which Lightning hands to the callbacks."""
        if self.compares_scores:
            return self.model.predict_batch(batch, compare=True)
        return self.model.predict_batch(batch)

    def configure_optimizers(self) -> Any:
        if self._optimizer is None:
            return None
        lr = self._optimizer.keywords["lr"]  # of the partial that the config has made
        inside = {id(p) for p in self.model.backbone.parameters()}
        others = [p for p in self.parameters() if id(p) not in inside]
        groups = parameter_groups(self.model.backbone, others, lr, self._ramp)
        factory = fused_where_faster(self._optimizer, groups) if self._may_fuse() else self._optimizer
        optimizer = factory(groups)
        if self._schedule is None:
            return optimizer
        scheduler = {"scheduler": self._schedule(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def _may_fuse(self) -> bool:
        """Whether the optimizer takes its steps itself: no scaler of gradients, and not DeepSpeed."""
        try:
            trainer = self.trainer
        except RuntimeError:  # none yet: a checkpoint is looked at before the training
            return False
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        return not scaled and not isinstance(trainer.strategy, DeepSpeedStrategy)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        plugin = self.trainer.precision_plugin
        if type(plugin) is MixedPrecision and plugin.scaler is None and gradient_clip_val:
            # Lightning refuses a fused optimizer here, which would undo the scaling of the gradients itself
            # only in its step. Without a scaler there is nothing to undo, and they are clipped as in float32
            way = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
            Precision.clip_gradients(plugin, optimizer, gradient_clip_val, way)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        own = {f"model.backbone.{k}": v.detach() for k, v in frozen(self.model.backbone).items()}
        for weights in _weights_in(checkpoint):
            weights.update({k: v for k, v in own.items() if k not in weights})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        broken = [name for weights in _weights_in(checkpoint) for name in not_finite(weights)]
        # only process 0 may hold the weights; all leave together
        if self.trainer.strategy.reduce_boolean_decision(bool(broken), all=False):
            named = f"{len(broken)} of the weights, {broken[0]} first, are" if broken else "weights are"
            raise NonFiniteError(
                f"step {self.trainer.global_step}: {named} not finite, and are not saved; the checkpoint "
                "before is kept: lower optimizer.lr, or raise schedule.warmup_steps"
            )
        # a checkpoint carries all that `ufo.load` needs: settings, vocabulary, class names
        checkpoint["ufo"] = self.model.describe()
        if self.identity is not None:
            checkpoint["run"] = self.identity
        held = {f"model.{name}" for name in held_elsewhere(self.model.backbone, "backbone.")}
        for weights in _weights_in(checkpoint):
            for name in held & weights.keys():
                del weights[name]


def _weights_in(checkpoint: dict[str, Any]) -> list[dict[str, Tensor]]:
    """The sets of weights that a checkpoint holds: those of the model, and others if it averages them."""
    return [checkpoint[key] for key in ("state_dict", "current_model_state") if key in checkpoint]
