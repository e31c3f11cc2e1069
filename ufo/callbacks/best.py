"""The best value of every validation metric so far: in a file, in checkpoints, and in W&B's summary.

A sweep's report and its dashboard compare runs by it, also those that failed later.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger

from ufo.callbacks.sources import sources_of
from ufo.files import write_json
from ufo.lightning_private import settings
from ufo.metrics.base import metrics_of

log = logging.getLogger(__name__)


class BestMetrics(Callback):
    """Writes `metrics.json`: `best` and `last` value of every metric `val/...`, and the `step` of the best.

    A `headline` of a metric is marked: a sweep's report shows it first.

    Larger is better for every number, unless its metric says otherwise (`MetricCallback.lower_is_better`) or
    its name ends in "loss". Values survive a resume.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / "metrics.json"
        self.metrics: dict[str, dict[str, float]] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for logger in trainer.loggers if trainer.is_global_zero else ():
            if isinstance(logger, WandbLogger):
                step = {"step_metric": "trainer/global_step", "step_sync": True}
                logger.experiment.define_metric("val/*", summary="max,last", **step)
                for name in self._should_be_small(trainer):
                    logger.experiment.define_metric(name, summary="min,last", **step)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        # Lightning calls this after all metrics have logged, wherever they stand among the callbacks
        headlines = {name for metric in metrics_of(settings(trainer).callbacks) for name in metric.headlines}
        small = self._should_be_small(trainer)
        for name, value in trainer.callback_metrics.items():
            if name.startswith("val/"):
                self.update(name, float(value), trainer.global_step, lower=name in small)
                if name in headlines:
                    self.metrics[name]["headline"] = True
        if trainer.is_global_zero and not settings(trainer).fast_dev_run:
            self._write()

    @staticmethod
    def _should_be_small(trainer: Trainer) -> set[str]:
        """Full names of the numbers of which smaller ones are better."""
        sources = [source.name for source in sources_of(trainer)]
        metrics = metrics_of(settings(trainer).callbacks)
        return {f"val/{s}/{number}" for s in sources for m in metrics for number in m.lower_is_better}

    def update(self, name: str, value: float, step: int, lower: bool = False) -> None:
        """Take note of one value; of a number that should be `lower` the smallest is the best."""
        known = self.metrics.setdefault(name, {"best": value, "last": value, "step": step})
        known["last"] = value
        lower = lower or name.endswith("loss")
        better = value < known["best"] if lower else value > known["best"]
        if better or not math.isfinite(known["best"]):
            known |= {"best": value, "step": step}

    def _write(self) -> None:
        try:
            write_json(self.path, dict(sorted(self.metrics.items())), indent=2)
        except OSError as error:
            log.warning("The best metrics could not be written to %s: %s", self.path, error)

    def state_dict(self) -> dict[str, Any]:
        return {"metrics": self.metrics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.metrics = {name: dict(values) for name, values in state_dict["metrics"].items()}
