"""The worst predictions of every validation: a table in W&B, a sheet in TensorBoard, files on the disk.

Which ones they are says each kind of result (`Kind.score`), so it does not matter which metrics there are.
"""

from __future__ import annotations

import csv
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from ufo.callbacks.pictures import Example, wandb_images
from ufo.draw import contact_sheet, side_by_side
from ufo.evaluation_callback import EvaluationCallback
from ufo.files import stems
from ufo.tasks import kind_of
from ufo.types import Batch, Prediction

log = logging.getLogger(__name__)

COLUMNS = ("score", "id", "file", "answer", "truth")


@dataclass
class Scored:
    """One image and how well it was done."""

    score: float
    example: Example

    def row(self) -> list[Any]:
        """The cells of `COLUMNS`."""
        e = self.example
        answer, truth = e.kind.in_words(e.prediction, e.target, e.classes)
        return [round(self.score, 4), e.target.id, Path(e.target.image).name, answer, truth]


class WorstPredictions(EvaluationCallback):
    """Show the images with the lowest scores of every source.

    Under DDP each image is scored by the process that predicted it; only the chosen ones are sent. Written
    to `folder/step_000000/<source>.csv` and `.png`.

    Args:
        folder: where to write.
        num_images: per source.
        max_objects: predictions of an image that are drawn, the most certain ones.
        min_score: predictions below it are not drawn.
        max_side: longest side in pixels of one drawn image.
    """

    def __init__(
        self,
        folder: str | Path,
        num_images: int = 16,
        max_objects: int = 20,
        min_score: float = 0.3,
        max_side: int = 640,
    ) -> None:
        self.folder = Path(folder)
        self.num_images, self.max_objects = num_images, max_objects
        self.min_score, self.max_side = min_score, max_side
        self._kept: dict[str, list[Scored]] = {}

    def keep(self, outputs: list[Prediction] | None, batch: Batch) -> None:
        """Remember the images of a batch that are among the worst so far."""
        if outputs is None:
            return
        kind, kept = kind_of(batch.task), self._kept.setdefault(batch.source, [])
        known = {scored.example.target.id for scored in kept}
        for prediction, target in zip(outputs, batch.targets, strict=True):
            score = kind.score(prediction, target, batch.classes)
            full = len(kept) >= self.num_images
            if score is None or target.id in known or (full and score >= kept[-1].score):
                continue
            small = kind.best(prediction, self.max_objects).to("cpu")
            kept.append(Scored(score, Example(small, target, batch.classes)))
            kept.sort(key=lambda scored: (scored.score, scored.example.target.id))
            del kept[self.num_images :]

    def _gathered(self) -> dict[str, list[Scored]]:
        """The worst of all processes; one exchange of numbers, one of what was chosen."""
        if not (dist.is_available() and dist.is_initialized()):
            return self._kept
        mine = {s: [(k.score, k.example.target.id) for k in kept] for s, kept in self._kept.items()}
        numbers = _exchange(mine)
        chosen = {}
        for source in sorted({s for part in numbers for s in part}):
            pairs = sorted({pair for part in numbers for pair in part.get(source, ())})
            chosen[source] = {id for _, id in pairs[: self.num_images]}
        parts = _exchange(
            {s: [k for k in self._kept.get(s, ()) if k.example.target.id in ids] for s, ids in chosen.items()}
        )
        union = {}
        for source in chosen:
            found = {k.example.target.id: k for part in parts for k in part[source]}
            union[source] = sorted(found.values(), key=lambda k: (k.score, k.example.target.id))
        return union

    def start(self) -> None:
        self._kept = {}

    def see(self, trainer: Trainer, outputs: Any, batch: Batch) -> None:
        self.keep(outputs, batch)

    def finish(self, trainer: Trainer, pl_module: LightningModule) -> None:
        gathered, self._kept = self._gathered(), {}
        if not trainer.is_global_zero:
            return
        names = stems(gathered)
        for source, scored in gathered.items():
            if scored:
                self._log(trainer, names[source], source, scored)

    def _log(self, trainer: Trainer, name: str, source: str, scored: list[Scored]) -> None:
        step, key = trainer.global_step, f"val/{source}"
        drawn = [
            side_by_side(
                *(e.image(), e.prediction, e.target, e.classes),
                min_score=self.min_score,
                max_side=self.max_side,
            )
            for e in (s.example for s in scored)
        ]
        sheet = contact_sheet(drawn, 2, f"{source}, the worst at step {step}")
        rows = [s.row() for s in scored]
        self._write(self.folder / f"step_{step:06d}" / name, rows, sheet)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(f"{key}/worst", np.asarray(sheet), step, dataformats="HWC")
            elif isinstance(logger, WandbLogger):
                images = wandb_images([s.example for s in scored], self.min_score)
                data = [[image, *row] for image, row in zip(images, rows, strict=True)]
                logger.log_table(f"{key}/worst", ["image", *COLUMNS], data, step=step)

    @staticmethod
    def _write(path: Path, rows: list[list[Any]], sheet: Any) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path.with_name(path.name + ".csv"), "w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([COLUMNS, *rows])
            sheet.save(path.with_name(path.name + ".png"), compress_level=1)  # as pictures
        except OSError as error:
            log.warning("The worst predictions could not be written to %s: %s", path, error)


def _exchange(content: Any) -> list[Any]:
    """What every process has, on every process."""
    parts = [None] * dist.get_world_size()
    dist.all_gather_object(parts, content)
    return parts
