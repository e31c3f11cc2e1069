"""Pictures of the same few validation images at every validation, in a folder and in the loggers.

TensorBoard gets the contact sheet. Weights & Biases gets images whose boxes and masks are toggled
in the dashboard, and a table of captions or grounded expressions.
Shapes: N objects, `H W` pixels of the original image; boxes are xyxy in its pixels.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from PIL import Image
from torch import Tensor

from ufo.data.errors import DataError
from ufo.data.pictures import read_image
from ufo.draw import contact_sheet, side_by_side
from ufo.evaluation_callback import EvaluationCallback
from ufo.files import stems
from ufo.kinds import Kind
from ufo.kinds.overlays import padded
from ufo.tasks import kind_of
from ufo.types import Batch, Prediction, Target

log = logging.getLogger(__name__)


@dataclass
class Example:
    """One image to show; its pixels are read again from its file."""

    prediction: Prediction  # on the CPU
    target: Target
    classes: tuple[str, ...]

    @property
    def kind(self) -> Kind:
        """What kind of result is shown."""
        return kind_of(self.prediction.task)

    def overlays(self, size: tuple[int, int], min_score: float = 0.0) -> dict[str, Any]:
        """Boxes and masks for `wandb.Image`, on an image of `size` (height, width)."""
        return self.kind.overlays(self.prediction, self.target, self.classes, size, min_score)

    def image(self) -> Tensor:
        """uint8 `[3, H, W]`, RGB, the original image; black if its file can't be read."""
        try:
            return read_image(self.target.image, self.target.size)
        except DataError:  # the source has named it already
            return torch.zeros(3, *self.target.size, dtype=torch.uint8)


class Pictures(EvaluationCallback):
    """Draw the first images of every source beside their ground truth after a validation or test.

    It wants steps that take a `Batch` with `targets` and return one `Prediction` per image, like
    the metric callbacks. Under DDP only the first process draws, from its share of the images.
    Nothing is drawn in a sanity check. Pictures are written to
    `folder/step_000000/<source, / as _>.png`; a full disk is logged and training goes on.

    Args:
        folder: where to write.
        num_images: different images per source, always the first ones.
        columns: pairs of pictures per row of the sheet.
        min_score: detections and instances below it are not drawn (boxes in wandb all are; its
            dashboard has a slider).
        max_side: longest side in pixels of one drawn image.
    """

    def __init__(
        self,
        folder: str | Path,
        num_images: int = 8,
        columns: int = 2,
        min_score: float = 0.3,
        max_side: int = 640,
    ) -> None:
        self.folder = Path(folder)
        self.num_images, self.columns = num_images, columns
        self.min_score, self.max_side = min_score, max_side
        self._kept: dict[str, dict[str | int, Example]] = {}

    def keep(self, outputs: list[Prediction] | None, batch: Batch) -> None:
        """Remember the batch's examples until there are `num_images` different ones of its source.

        Raises:
            ValueError: there is not one prediction per target.
        """
        kept = self._kept.setdefault(batch.source, {})
        if outputs is None or len(kept) >= self.num_images:
            return
        for prediction, target in zip(outputs, batch.targets, strict=True):
            # one expression per image is enough: others of the same image would fill the sheet
            key = target.image or target.id
            if key not in kept and len(kept) < self.num_images:
                kept[key] = Example(prediction.to("cpu"), target, batch.classes)

    def sheet(self, examples: list[Example], title: str = "") -> Image.Image:
        """The contact sheet of some examples."""
        pairs = [
            side_by_side(
                *(e.image(), e.prediction, e.target, e.classes),
                min_score=self.min_score,
                max_side=self.max_side,
            )
            for e in examples
        ]
        return contact_sheet(pairs, self.columns, title)

    def start(self) -> None:
        self._kept = {}

    def see(self, trainer: Trainer, outputs: Any, batch: Batch) -> None:
        if trainer.is_global_zero:
            self.keep(outputs, batch)

    def finish(self, trainer: Trainer, pl_module: LightningModule) -> None:
        step, names = trainer.global_step, stems(self._kept)
        for source, kept in self._kept.items():
            if not (examples := list(kept.values())):
                continue
            sheet = self.sheet(examples, f"{source}, step {step}")
            self._write(sheet, self.folder / f"step_{step:06d}" / f"{names[source]}.png")
            key = f"val/{source}"
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_image(f"{key}/pictures", np.asarray(sheet), step, dataformats="HWC")
                elif isinstance(logger, WandbLogger):
                    log_wandb(logger, key, examples, step, self.min_score)
        self._kept = {}

    @staticmethod
    def _write(sheet: Image.Image, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            sheet.save(path, compress_level=1)  # a third of the time for a sixth more bytes
        except OSError as error:
            log.warning("The pictures %s could not be written: %s", path, error)


def log_wandb(
    logger: WandbLogger, key: str, examples: list[Example], step: int, min_score: float = 0.0
) -> None:
    """Log `{key}/pictures`, and `{key}/answers` where the kind of result has a table of answers.

    Args:
        examples: of one source.
        min_score: instances below it are left out of the masks.
    """
    # not `logger.log_image`: it wraps every image once more, which drops boxes and masks
    pictures = wandb_images(examples, min_score)
    logged: dict[str, Any] = {f"{key}/pictures": pictures}
    logger.log_metrics(logged, step)
    columns = examples[0].kind.columns
    if columns:
        # not the same objects again: a table stores its images in its own place
        images = wandb_images(examples, min_score)
        data = [
            [image, *e.kind.row(e.prediction, e.target)] for image, e in zip(images, examples, strict=True)
        ]
        logger.log_table(f"{key}/answers", ["image", *columns], data, step=step)


def wandb_images(examples: list[Example], min_score: float = 0.0) -> list[Any]:
    """`wandb.Image`s of one size with boxes and masks that can be toggled."""
    import wandb

    # wandb describes a list of images by the size of its first one, so that overlays of images of
    # other sizes would be off: all get the largest size, empty on the right and below
    height, width = np.max([e.target.size for e in examples], axis=0).tolist()
    file_type = "png" if max(height, width) <= 256 else "jpg"

    def picture(example: Example) -> wandb.Image:
        pixels = padded(example.image(), height, width).permute(1, 2, 0).numpy()
        return wandb.Image(
            Image.fromarray(pixels),
            caption=example.kind.caption(example.prediction, example.target),
            file_type=file_type,
            **example.overlays((height, width), min_score),
        )

    return [picture(e) for e in examples]
