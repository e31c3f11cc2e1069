"""Predictions of an evaluation as COCO-style results, with the ids of the data set's own file.

One JSON per source, which pycocotools and other tools read beside the annotation file: `image_id` and
`category_id` are those of that file, boxes `[x, y, width, height]` in pixels of the original image.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer

from ufo.callbacks.sources import sources_of
from ufo.evaluation_callback import EvaluationCallback
from ufo.files import stems, write_json
from ufo.kinds import ImageInfo
from ufo.tasks import kind_of
from ufo.types import Batch, Prediction

log = logging.getLogger(__name__)

Records = dict[str, dict[int, list[dict[str, Any]]]]
"""By source and `Target.id`, so that an image that a sampler repeats counts once."""


class Predictions(EvaluationCallback):
    """Write every prediction of an evaluation to `folder/<source>.json`.

    Args:
        folder: where to write; None: nothing is kept or written.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = None if folder is None else Path(folder)
        self._records: Records = {}

    def collect(self, outputs: list[Prediction], batch: Batch) -> None:
        """Keep the records of a batch; categories are still numbered from 1."""
        kind, records = kind_of(batch.task), self._records.setdefault(batch.source, {})
        for prediction, target in zip(outputs, batch.targets, strict=True):
            image = ImageInfo(target.image_id, Path(target.image).name, target.size)
            found = kind.records(prediction.to("cpu"), image, target.size, target.text)
            records.setdefault(target.id, found)

    def start(self) -> None:
        self._records = {}

    def see(self, trainer: Trainer, outputs: Any, batch: Batch) -> None:
        if self.folder is not None and outputs is not None:
            self.collect(outputs, batch)

    def finish(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.folder is None:
            return
        gathered, self._records = self._gathered(), {}
        if trainer.is_global_zero:
            sources = sources_of(trainer)
            ids = {s.name: getattr(s.data("val"), "category_ids", None) for s in sources if s.has("val")}
            self.write(gathered, ids)

    def write(self, records: Records, category_ids: dict[str, tuple[int | str, ...] | None]) -> None:
        """Write the records, with the category ids of each source in label order where its file has any."""
        assert self.folder is not None
        names = stems(records)
        for source, by_image in records.items():
            ids = category_ids.get(source)
            rows = [row for _, found in sorted(by_image.items()) for row in found]
            if ids is not None:
                rows = _with_ids(source, rows, ids)
            path = self.folder / f"{names[source]}.json"
            try:
                write_json(path, rows)
                log.info("predictions of %s: %s", source, path)
            except OSError as error:
                log.warning("The predictions of %s could not be written to %s: %s", source, path, error)

    def _gathered(self) -> Records:
        """The records of all processes."""
        parts: list[Any] = [self._records]
        if dist.is_available() and dist.is_initialized():
            parts = [None] * dist.get_world_size()
            dist.all_gather_object(parts, self._records)
        union: Records = {}
        for part in parts:
            for source, by_image in part.items():
                union.setdefault(source, {}).update(by_image)
        return union


def _with_ids(source: str, rows: list[dict[str, Any]], ids: tuple[int | str, ...]) -> list[dict[str, Any]]:
    """The records with the file's category ids; those of names that it lacks (`also_ask`) are left out."""
    known = [row for row in rows if row.get("category_id", 0) <= len(ids)]
    if lost := len(rows) - len(known):
        log.warning("%s: %dx prediction of a class that its file does not have, left out", source, lost)
    return [
        {**row, "category_id": ids[row["category_id"] - 1]} if "category_id" in row else row for row in known
    ]
