"""Training passes that are recorded and replayed: forward, losses and backward in one launch.

Gradients come out of the recording and are handed on by a function of autograd, so that accumulation,
clipping, hooks of DDP and the optimizer meet them as they meet others. Batches are rounded before they are
learned, recorded or not: the first batch of a shape draws the same random numbers as a replayed one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from ufo.backbones.base import Backbone
from ufo.head.learning import Learned, Rule, learn
from ufo.head.replay.recordings import Calls, Pass, Recorder, Recordings, Tensors, _Recording, copied
from ufo.head.training_inputs import TrainingInputs, rounded
from ufo.ops.launches import watched


class TrainingReplay:
    """`learn`, replayed where a recorder works and shapes come again.

    In `eval` mode, and where layers are made again in the backward pass, it runs as it is.
    """

    def __init__(self, backbone: Backbone, recorder: Recorder, most: int):
        self.recordings = _Steps(backbone, recorder, most)
        self._recorder = recorder
        backbone.rounds_prompts = True
        self._played, self._fits = 0, True

    def __call__(self, backbone: Backbone, batch: TrainingInputs, rule: Rule) -> Learned:
        """`learn(backbone, batch, rule)`."""
        device = backbone.device
        works = self._fits and self._recorder.works_on(device)
        if not works or not backbone.training or backbone.gradient_checkpointing:
            return learn(backbone, batch, rule)
        pads = not backbone.quirks.padded_positions
        batch = rounded(batch, pads, backbone.max_positions).map(lambda x: x.to(device, non_blocking=True))
        if not torch.is_grad_enabled() or watched():
            return learn(backbone, batch, rule)
        weights = self.recordings.trained_weights()
        wanted = Pass(_kind(batch, rule), _tensors(batch), self._function(backbone, batch, rule, weights))
        found = self.recordings.run(wanted, device, lambda results, told: self._take(results, told, weights))
        return self._as_written(backbone, batch, rule) if found is None else found

    def _as_written(self, backbone: Backbone, batch: TrainingInputs, rule: Rule) -> Learned:
        """`learn`, for which recordings make room if they must: their memory is kept between steps."""
        try:
            return learn(backbone, batch, rule)
        except torch.OutOfMemoryError:
            if not len(self.recordings):
                raise
        self._fits = False
        self.recordings.forget()
        warnings.warn(
            "training goes on without recordings (cuda_graphs=auto): the memory does not hold them beside a "
            "step of a new shape",
            stacklevel=2,
        )
        return learn(backbone, batch, rule)

    def _function(
        self, backbone: Backbone, batch: TrainingInputs, rule: Rule, weights: Mapping[str, Tensor]
    ) -> Callable[[Tensors], tuple[Tensors, Any]]:
        """What is recorded: losses, and gradients at their places; the names of these, and the patches."""
        calls = Calls(backbone)

        def function(inputs: Tensors) -> tuple[Tensors, Any]:
            # leaves of its own: autograd would add gradients of the weights themselves on the stream that DDP
            # or an earlier loss met them on, and what is captured must not touch another stream
            leaves = {f"backbone.{name}": x.detach().requires_grad_() for name, x in weights.items()}
            call = (lambda: learn(backbone, _inputs_of(inputs, batch), rule),)
            losses, patches = functional_call(calls, leaves, call)
            found = torch.autograd.grad(losses["loss"], list(leaves.values()), allow_unused=True)
            made = {name: x for name, x in zip(weights, found, strict=True) if x is not None}
            places = [self.recordings.gradient(name, weights[name]) for name in made]
            torch._foreach_copy_(places, list(made.values()))
            return {name: loss.detach() for name, loss in losses.items()}, (list(made), patches)

        return function

    def _take(self, results: Tensors, told: tuple[list[str], int], weights: Mapping[str, Tensor]) -> Learned:
        """The losses, of which that of all parts knows the gradients of the weights that were told."""
        names, patches = told
        self._played += 1
        played, places = self._played, [self.recordings.gradient(name, weights[name]) for name in names]

        def gradients() -> list[Tensor]:
            if self._played != played:
                raise RuntimeError(
                    "another training pass has been made since this loss, and its gradients stand in their "
                    "place; call backward before the next pass, or train with cuda_graphs=auto"
                )
            return places

        losses = copied(results)
        losses["loss"] = _HandedOn.apply(gradients, losses["loss"], *(weights[name] for name in names))
        return Learned(losses, patches)


class _HandedOn(torch.autograd.Function):
    """A loss whose gradients are known already."""

    @staticmethod
    def forward(ctx: Any, gradients: Callable[[], list[Tensor]], loss: Tensor, *weights: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *torch._foreach_mul(ctx.gradients(), gradient)


class _Steps(Recordings):
    """Recordings that read weights as they are by then, and draw random numbers as the pass itself does."""

    def _start(self) -> None:
        super()._start()
        self._gradients: Tensors = {}

    def gradient(self, name: str, weight: Tensor) -> Tensor:
        """Where every recording leaves the gradient of a weight; made before the first one is captured."""
        if name not in self._gradients:
            self._gradients[name] = torch.zeros_like(weight)
        return self._gradients[name]

    def trained_weights(self) -> Tensors:
        """By name. Drops recordings if some weights lie elsewhere by now, or are frozen."""
        with self._lock:
            named = dict(self._backbone.named_parameters())  # once per step: there are thousands with LoRA
            weights = tuple(p.data_ptr() * (1 if p.requires_grad else -1) for p in named.values())
            if weights != self._weights:
                self.forget()
                self._weights = weights
        return {name: p for name, p in named.items() if p.requires_grad}

    def _record(self, key: Any, *rest: Any) -> _Recording | None:
        device: torch.device = key[1]
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            return super()._record(key, *rest)

    def _runs(
        self, wanted: Pass, device: torch.device, kind: torch.dtype | None
    ) -> Callable[[Tensors], tuple[Tensors, Any]]:
        def run(inputs: Tensors) -> tuple[Tensors, Any]:
            # a weight is cast inside, once: what was cast before is of another step, or is gone
            torch.clear_autocast_cache()
            try:
                return wanted.function(inputs)
            finally:
                torch.clear_autocast_cache()

        return run


# ---------------------------------------------------------------- names of tensors


def _tensors(batch: TrainingInputs) -> Tensors:
    """The tensors of a batch by name."""
    parts: dict[str, Any] = {"": batch, "queries.": batch.queries, "masks.": batch.masks}
    return {
        f"{prefix}{name}": x
        for prefix, part in parts.items()
        if part is not None
        for name, x in vars(part).items()
        if isinstance(x, Tensor)
    }


def _kind(batch: TrainingInputs, rule: Rule) -> tuple[Any, ...]:
    """What a training pass depends on besides tensors."""
    queries = batch.queries and (batch.queries.grid, batch.queries.by_window)
    counts = batch.masks and tuple(batch.masks.counts)
    return "training", batch.causal, queries, counts, rule.mask_points, tuple(rule.weights.items())


def _inputs_of(tensors: Tensors, like: TrainingInputs) -> TrainingInputs:
    """The batch of named tensors."""
    found = iter(tensors[name] for name in _tensors(like))
    return like.map(lambda _: next(found))
