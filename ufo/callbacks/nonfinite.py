"""A loss or gradient that is not finite: name the batch, skip the step, stop after a few in a row.

A single step with NaN gradients would spoil all weights, so it is left out: no weight moves. A run whose very
last step was left out does not end as a success. Gradients are
the same on all processes, which therefore agree without talking. `ufo replay BUNDLE` repeats the step of the
bundle.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy
from torch import Tensor
from torch.optim import SGD, Optimizer

from ufo.runs.finite import LEFT_OUT, WATCH, NonFiniteError
from ufo.types import Batch

log = logging.getLogger(__name__)

WEIGHTS, BATCH = "weights.pt", "batch_{}.pt"
DEVICES = frozenset({"cuda"})  # that compute on while the host prepares the next step

Seen = list[tuple[Batch, Tensor]]
"""The batches of an optimizer step with their losses."""


@dataclass
class _Step:
    """A step of which the host does not know yet whether the optimizer has left it out."""

    number: int
    seen: Seen
    broken: Tensor  # on the host, [], filled when the event has happened
    known: torch.cuda.Event | None

    def is_broken(self) -> bool:
        if self.known is not None:
            self.known.synchronize()
        return bool(self.broken)


class NonFinite(Callback):
    """Skip optimizer steps without finite gradients; stop after `patience` of them in a row.

    To read whether a gradient is finite, the main process would wait for the device. A fused optimizer on a
    GPU leaves the step out itself, and the main process learns of it before the next one. Others wait.
    DeepSpeed takes its steps whatever happens and shows no gradients: there the first loss that is not finite
    ends the run, before the step.

    Args:
        folder: where the bundle is written: the weights, and the batches of the processes whose loss is not
        finite.
        patience: so many such steps in a row end the run with `NonFiniteError`.
    """

    def __init__(self, folder: str | Path, patience: int = 3) -> None:
        if patience < 1:
            raise ValueError(f"callbacks.non_finite.patience must be at least 1, not {patience}")
        self.folder, self.patience = Path(folder), patience
        self.in_a_row = 0
        self._batch: Batch | None = None
        self._seen: Seen = []  # since the last optimizer step
        self._left_out: tuple[int, Seen] | None = None  # the last step, if it was
        self._unread: _Step | None = None

    @property
    def state_key(self) -> str:
        return WATCH

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint of a step that was left out says, should it be the last of its run."""
        left_out, unread = self._left_out, self._unread
        if unread is not None:
            left_out = (unread.number, unread.seen) if unread.is_broken() else None
        return {} if left_out is None else {LEFT_OUT: self._why(*left_out)}

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._batch = batch

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        assert self._batch is not None, "a batch starts before its loss is known"
        self._seen.append((self._batch, loss.detach()))

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        seen, self._seen = self._seen, []
        self._read(trainer)
        alike = _alike(trainer)
        if alike and (gradients := _gradients(optimizer)) and _leaves_out_itself(optimizer, gradients):
            self._unread = _let_leave_out(optimizer, gradients, trainer.global_step, seen)
        elif not self._broken(trainer, optimizer, seen, alike):
            self.in_a_row, self._left_out = 0, None
        else:
            optimizer.zero_grad(set_to_none=True)  # a weight without a gradient stays as it is
            self._was_left_out(trainer, trainer.global_step, seen)

    def _read(self, trainer: Trainer) -> None:
        """Learn whether the step before was left out."""
        if self._unread is None:
            return
        step, self._unread = self._unread, None
        if step.is_broken():
            self._was_left_out(trainer, step.number, step.seen)
        else:
            self.in_a_row, self._left_out = 0, None

    def _was_left_out(self, trainer: Trainer, step: int, seen: Seen) -> None:
        """Say so; after too many in a row end the run."""
        self.in_a_row += 1
        guilty = [(batch, loss) for batch, loss in seen if not loss.isfinite()]
        for batch, loss in guilty:
            log.error(
                "step %d, process %d: the loss is %s: %s",
                step,
                trainer.global_rank,
                float(loss),
                describe(batch),
            )
        if not guilty and trainer.is_global_zero:
            names = "; ".join(describe(batch) for batch, _ in seen)
            log.error("step %d: a gradient is not finite; process 0 had %s", step, names)
        self._left_out = (step, guilty or seen)
        if self.in_a_row >= self.patience or isinstance(trainer.strategy, DeepSpeedStrategy):
            raise NonFiniteError(
                f"{self.in_a_row} steps in a row had no finite gradient, the last one: "
                f"{describe(seen[-1][0])}; `ufo replay {self._write(trainer, *self._left_out)}` repeats it"
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._read(trainer)

    def check_end(self, trainer: Trainer) -> None:
        """Raises NonFiniteError where the last step of a training was left out: it may have diverged.

        Called by every process when the last checkpoint, with the weights before that step, is written.
        """
        if self._left_out is None:
            return
        self._write(trainer, *self._left_out)
        raise NonFiniteError(self._why(*self._left_out))

    def _why(self, step: int, seen: Seen) -> str:
        """What is to be said of a training that ends with this step."""
        return (
            f"the last step had no finite gradient: {describe(seen[-1][0])}; `ufo replay "
            f"{self._bundle(step)}` repeats it, and the last checkpoint has the weights before it: train "
            "again with a lower optimizer.lr if they have diverged"
        )

    def _bundle(self, step: int) -> Path:
        return self.folder / f"step_{step:06d}"

    def _broken(self, trainer: Trainer, optimizer: Optimizer, seen: Seen, alike: bool) -> bool:
        if _scaled_or_hidden(trainer):
            broken = not all(bool(loss.isfinite()) for _, loss in seen)
        else:
            gradients = _gradients(optimizer)
            broken = bool(gradients) and bool(_not_finite(gradients))
        return broken if alike else trainer.strategy.reduce_boolean_decision(broken, all=False)

    def _write(self, trainer: Trainer, step: int, seen: Seen) -> Path:
        """The folder of a bundle, written as far as there is space."""
        folder = self._bundle(step)
        try:
            state = trainer.strategy.lightning_module_state_dict()  # every process takes part
            folder.mkdir(parents=True, exist_ok=True)
            if trainer.is_global_zero:
                module: Any = trainer.lightning_module
                weights = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
                description = module.model.describe()
                content = {"ufo": description, "state_dict": weights, "precision": str(trainer.precision)}
                torch.save(content, folder / WEIGHTS)
            if trainer.is_global_zero or any(not loss.isfinite() for _, loss in seen):
                batches = [values_of(batch) for batch, _ in seen]
                torch.save(batches, folder / BATCH.format(trainer.global_rank))
        except (OSError, RuntimeError) as error:
            log.error("the bundle %s could not be written: %s", folder, error)
        return folder


def _scaled_or_hidden(trainer: Trainer) -> bool:
    """Whether gradients say nothing: a scaler meets infinite ones every day, DeepSpeed shows none."""
    scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
    return scaled or isinstance(trainer.strategy, DeepSpeedStrategy)


def _alike(trainer: Trainer) -> bool:
    """Whether all processes have the same gradients."""
    strategies = (DDPStrategy, SingleDeviceStrategy)  # DeepSpeed's is one, too
    return isinstance(trainer.strategy, strategies) and not _scaled_or_hidden(trainer)


def _gradients(optimizer: Optimizer) -> list[Tensor]:
    weights = (p for group in optimizer.param_groups for p in group["params"])
    gradients = [p.grad for p in weights if p.grad is not None]
    return [g.to_local() if hasattr(g, "to_local") else g for g in gradients]


def _not_finite(gradients: list[Tensor]) -> Tensor:
    """Whether one of them holds such a number, bool `[]` on their device."""
    return ~torch.stack([*torch._foreach_norm(gradients)]).isfinite().all()


def _leaves_out_itself(optimizer: Optimizer, gradients: list[Tensor]) -> bool:
    """Whether the optimizer looks on the device whether gradients are finite, as it does for a scaler."""
    groups = optimizer.param_groups
    if isinstance(optimizer, SGD) and any(group["momentum"] for group in groups):
        return False  # left out, its first step would keep what the memory of the momentum held before
    fused = all(group.get("fused") for group in groups)
    looks = getattr(optimizer, "_step_supports_amp_scaling", False)
    return fused and looks and all(gradient.device.type in DEVICES for gradient in gradients)


def _let_leave_out(optimizer: Any, gradients: list[Tensor], number: int, seen: Seen) -> _Step:
    """Tell the optimizer, and start to copy to the host, whether it leaves this step out."""
    broken = _not_finite(gradients).float()
    optimizer.found_inf = broken
    if broken.device.type != "cuda":
        return _Step(number, seen, broken, None)
    copy = torch.empty((), pin_memory=True).copy_(broken, non_blocking=True)
    known = torch.cuda.Event()
    known.record()
    return _Step(number, seen, copy, known)


def describe(batch: Batch) -> str:
    """Task, source, samples and seed of a batch, for people."""
    samples = ", ".join(map(str, batch.ids)) or "unknown"
    return f"{batch.task} of {batch.source}, samples {samples} (seed {batch.seed})"


def values_of(batch: Batch) -> dict[str, Any]:
    """A training batch as tensors, lists, numbers and texts, which are read without executing anything."""
    values = {f.name: getattr(batch, f.name) for f in fields(batch) if f.name != "targets"}
    return {k: v.detach().cpu() if isinstance(v, Tensor) else v for k, v in values.items()}
