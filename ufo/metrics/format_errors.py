"""How many answers are not what their task promises: a text in place of a box, no class, no mask, cut off.

A task knows what it can read (`Task.well_formed`); a prediction brings the counts of its image along, so that
nothing is parsed twice. Under a grammar (`constrained`) the rate is 0 by construction, which is logged.
"""

from __future__ import annotations

import logging
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric

from ufo.metrics.base import MetricCallback, Record
from ufo.types import Batch, Prediction, Target

log = logging.getLogger(__name__)


class FormatErrorRate(Metric):
    """`format_error_rate`: broken answers / answers, over all queries of all images; NaN without any."""

    full_state_update = False
    higher_is_better = False
    broken: Tensor  # int64 []
    answers: Tensor  # int64 []

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for state in ("broken", "answers"):
            self.add_state(state, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, broken: int, answers: int) -> None:
        """Add the answers to one image."""
        self.broken += broken
        self.answers += answers

    def compute(self) -> dict[str, Tensor]:
        """A scalar float64 in 0..1."""
        return {"format_error_rate": self.broken.double() / self.answers}


class FormatErrors(MetricCallback):
    """The share of answers that are not well-formed, of every task; see `FormatErrorRate`."""

    beside: ClassVar[bool] = True
    lower_is_better: ClassVar[frozenset[str]] = frozenset({"format_error_rate"})
    headline = "format_error_rate"

    def __init__(self, headline: str | None = None) -> None:
        super().__init__(headline)
        self._tasks: dict[str, str] = {}  # of each source
        self._told: set[str] = set()

    def make_metric(self, classes: tuple[str, ...]) -> FormatErrorRate:
        return FormatErrorRate(sync_on_compute=False)

    def record(self, prediction: Prediction, target: Target, classes: tuple[str, ...]) -> Record:
        return prediction.broken, prediction.answers

    def collect(self, outputs: list[Prediction] | None, batch: Batch) -> None:
        self._tasks[batch.source] = batch.task
        super().collect(outputs, batch)

    def finish(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().finish(trainer, pl_module)
        tasks = getattr(getattr(pl_module, "model", None), "tasks", {})
        for source, name in self._tasks.items():
            if getattr(tasks.get(name), "constrained", False) and source not in self._told:
                self._told.add(source)
                log.info("%s: a grammar forbids broken answers (constrained=true), so none are", source)
