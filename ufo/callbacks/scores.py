"""What each score of a task is worth: AP, ECE and Brier score side by side, and reliability diagrams.

Add it to an evaluation with `callbacks=[default,scores]`. The answers are decoded once and read under every
score that their task may have; where the task is calibrated (`ufo calibrate`), under the calibrated one too.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from PIL import Image

from ufo.draw import contact_sheet
from ufo.draw.reliability import reliability_diagram
from ufo.files import save_picture, stems, write_json
from ufo.metrics.base import MetricCallback, Record
from ufo.metrics.scores import CONSTANT, Column, ScoresCompared, compared
from ufo.tables import table
from ufo.tasks import kind_of, task_class
from ufo.types import Prediction, Target

log = logging.getLogger(__name__)

FILE = "scores.json"
Columns = dict[str, dict[str, Column]]
"""By source and score."""


class ScoreTable(MetricCallback):
    """Prints a table for each source whose task scores objects, and keeps it in `columns`.

    Args:
        folder: `scores.json` and `reliability/<source>.png` are written there; None: nothing is written or
            printed.
    """

    beside = True
    headline = "mAP"

    def __init__(self, folder: str | Path | None = None) -> None:
        super().__init__()
        self.folder = None if folder is None else Path(folder)
        self.columns: Columns = {}

    def scores(self, task: str) -> bool:
        return len(task_class(task).scores) > 1

    def make_metric(self, classes: tuple[str, ...]) -> ScoresCompared:
        return ScoresCompared(classes)

    def record(self, prediction: Prediction, target: Target, classes: tuple[str, ...]) -> Record:
        return (compared(prediction, target, kind_of(prediction.task)),)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        pl_module.compares_scores = True  # type: ignore[assignment]  # of a UFOModule

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        pl_module.compares_scores = False  # type: ignore[assignment]  # as above

    def finish(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.columns = {}
        for source, (classes, records) in self._gather().items():
            metric = self.make_metric(classes)
            for _, record in sorted(records.items()):
                metric.update(*record)
            self.columns[source] = metric.columns()
        self._sources = {}
        if trainer.is_global_zero and self.folder is not None:
            print("\n" + text(self.columns))
            self.write(self.folder)

    def write(self, folder: Path) -> None:
        """Write the numbers and the diagrams; a full disk is not a reason to stop."""
        content = {
            source: {score: {**column.values, "bins": column.rows} for score, column in columns.items()}
            for source, columns in self.columns.items()
        }
        try:
            write_json(folder / FILE, content, indent=1)
            names = stems(self.columns)
            for source, columns in self.columns.items():
                save_picture(diagrams(columns), folder / "reliability" / f"{names[source]}.png")
            print(f"reliability diagrams: {folder / 'reliability'}")
        except OSError as error:
            log.warning("The scores could not be written to %s: %s", folder, error)


def text(columns: Columns) -> str:
    """A table for each source, a row for each score."""
    parts = []
    for source, by_score in columns.items():
        names = list(next(iter(by_score.values())).values) if by_score else []
        rows = [
            [score, *(f"{column.values[name]:.4f}" for name in names), str(len(column.scores))]
            for score, column in by_score.items()
        ]
        parts.append(table([f"{source}, score", *names, "objects"], rows))
    return "\n\n".join(parts)


def diagrams(columns: Mapping[str, Column]) -> Image.Image:
    """One picture with the reliability diagram of every score that says anything."""
    drawn = [
        reliability_diagram(column.rows, f"{score}: ECE {column.values['ECE']:.3f}")
        for score, column in columns.items()
        if score != CONSTANT and column.rows
    ]
    return contact_sheet(drawn, columns=len(drawn) or 1)
