"""Pictures of the same few validation images at every validation, in a folder and in the loggers.

TensorBoard gets the contact sheet. Weights & Biases gets images whose boxes and masks are toggled
in the dashboard, and a table of captions or grounded expressions.
Shapes: N objects, `H W` pixels of the original image; boxes are xyxy in its pixels.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from PIL import Image
from torch import Tensor
from torchvision.ops import box_iou

from ufo.data.datasets.base import read_image
from ufo.data.errors import DataError
from ufo.draw import contact_sheet, side_by_side
from ufo.ops.masks import rle_decode
from ufo.stages import EvaluationCallback
from ufo.types import IGNORE, Batch, Prediction, Target

log = logging.getLogger(__name__)

MAX_MASK_CLASSES = 254  # wandb's masks are uint8, 0 is "nothing"


@dataclass
class Example:
    """One image to show; its pixels are read again from its file."""

    prediction: Prediction  # on the CPU
    target: Target
    classes: tuple[str, ...]

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

    def finish(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        step = trainer.global_step
        for source, kept in self._kept.items():
            if not (examples := list(kept.values())):
                continue
            sheet = self.sheet(examples, f"{source}, step {step}")
            name = re.sub(r"[^\w.-]+", "_", source)
            self._write(sheet, self.folder / f"step_{step:06d}" / f"{name}.png")
            key = f"{stage}/{source}"
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
            sheet.save(path)
        except OSError as error:
            log.warning("The pictures %s could not be written: %s", path, error)


def log_wandb(
    logger: WandbLogger, key: str, examples: list[Example], step: int, min_score: float = 0.0
) -> None:
    """Log `{key}/pictures`, and `{key}/answers` for captions and grounding.

    Args:
        examples: of one source.
        min_score: instances below it are left out of the masks.
    """
    # not `logger.log_image`: it wraps every image once more, which drops boxes and masks
    pictures = wandb_images(examples, min_score)
    logger.log_metrics({f"{key}/pictures": pictures}, step)
    columns, row = TABLES.get(examples[0].prediction.task, ((), None))
    if row is not None:
        # not the same objects again: a table stores its images in its own place
        images = wandb_images(examples, min_score)
        data = [[image, *row(e)] for image, e in zip(images, examples, strict=True)]
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
            caption=_caption(example),
            file_type=file_type,
            **overlays(example, (height, width), min_score),
        )

    return [picture(e) for e in examples]


def _segmented(example: Example) -> list[Any]:
    prediction, target = example.prediction, example.target
    overlap = 0.0
    if prediction.masks is not None and target.masks is not None:
        found, wanted = prediction.masks.bool().any(0), rle_decode(target.masks, target.size).any(0)
        overlap = float((found & wanted).sum() / (found | wanted).sum().clamp(min=1))
    return [target.text, prediction.text, overlap]


def _grounded(example: Example) -> list[Any]:
    prediction, target = example.prediction, example.target
    iou = 0.0
    if prediction.boxes is not None and len(prediction.boxes) and target.boxes is not None:
        iou = float(box_iou(prediction.boxes[:1].float(), target.boxes[:1].float()))
    return [target.text, prediction.text, iou]


# task -> columns of the table beside the image, and their values
TABLES: dict[str, tuple[tuple[str, ...], Callable[[Example], list[Any]]]] = {
    "caption": (
        ("prediction", "references"),
        lambda e: [e.prediction.text, "\n".join(e.target.captions or [])],
    ),
    "grounding": (("expression", "answer", "IoU"), _grounded),
    "referring_segmentation": (("expression", "answer", "IoU"), _segmented),
    "reasoning_segmentation": (("text", "answer", "IoU"), _segmented),
    "vqa": (
        ("question", "answer", "right"),
        lambda e: [e.target.text, e.prediction.text, "\n".join(e.target.answers or [])],
    ),
}


def overlays(example: Example, size: tuple[int, int], min_score: float = 0.0) -> dict[str, Any]:
    """What `wandb.Image` wants as `boxes` and `masks`, each with predictions and ground truth.

    In the masks 0 is "nothing" and class `i` is `i + 1`; more than 254 classes get no masks.

    Args:
        example: what is shown.
        size: (height, width) of the image shown, at least the original one.
        min_score: instances below it are left out of the masks.
    """
    prediction, target, classes = example.prediction, example.target, example.classes
    result: dict[str, Any] = {}
    if prediction.boxes is not None:
        names = dict(enumerate(classes)) if prediction.labels is not None else {0: "referred to"}
        found = box_data(prediction.boxes, prediction.labels, names, prediction.scores)
        result["boxes"] = {"predictions": found}
        if target.boxes is not None:
            result["boxes"]["ground_truth"] = box_data(target.boxes, target.labels, names)
    if len(classes) <= MAX_MASK_CLASSES:
        named = classes or ("referred to",)
        labels = {0: "nothing", **{i + 1: name for i, name in enumerate(named)}}
        result["masks"] = {
            key: {"mask_data": padded(value, *size).numpy(), "class_labels": labels}
            for key, value in _class_maps(prediction, target, min_score).items()
        }
    return {key: value for key, value in result.items() if value}


def _class_maps(prediction: Prediction, target: Target, min_score: float) -> dict[str, Tensor]:
    """`predictions` and `ground_truth` as uint8 `[H, W]`; none for a task without masks."""
    maps = {}
    if prediction.semantic is not None:
        maps["predictions"] = class_map(prediction.semantic)
        if target.semantic is not None:
            maps["ground_truth"] = class_map(target.semantic)
    elif prediction.masks is not None and prediction.labels is None:  # what an expression means
        maps["predictions"] = prediction.masks.any(0).to(torch.uint8)
        if target.masks is not None:
            maps["ground_truth"] = rle_decode(target.masks, target.size).any(0).to(torch.uint8)
    elif prediction.masks is not None:
        masks, labels = prediction.masks, prediction.labels
        if prediction.scores is not None:
            order = prediction.scores.argsort(stable=True)  # the best one is painted last
            order = order[prediction.scores[order] >= min_score]
            masks, labels = masks[order], labels[order]
        maps["predictions"] = painted(masks, labels, target.size)
        if target.masks is not None and target.labels is not None:
            masks = rle_decode(target.masks, target.size)
            maps["ground_truth"] = painted(masks, target.labels, target.size)
    return maps


def box_data(
    boxes: Tensor, labels: Tensor | None, names: dict[int, str], scores: Tensor | None = None
) -> dict[str, Any]:
    """wandb's form of boxes `[N, 4]` with labels `[N]` and scores `[N]`."""
    classes = labels.tolist() if labels is not None else [0] * len(boxes)
    entries = []
    for i, (box, label) in enumerate(zip(boxes.float().tolist(), classes, strict=True)):
        if not np.isfinite(box).all():  # not a number in JSON
            continue
        entry: dict[str, Any] = {
            "position": dict(zip(("minX", "minY", "maxX", "maxY"), box, strict=True)),
            "domain": "pixel",
            "class_id": label,
            "box_caption": names.get(label, str(label)),
        }
        if scores is not None:
            entry["scores"] = {"score": float(scores[i])}
            entry["box_caption"] += f" {float(scores[i]):.2f}"
        entries.append(entry)
    return {"box_data": entries, "class_labels": names}


def class_map(semantic: Tensor) -> Tensor:
    """A semantic map `[H, W]` with 0 where it says `IGNORE` and class + 1 elsewhere: uint8."""
    return torch.where(semantic == IGNORE, 0, semantic.long() + 1).to(torch.uint8)


def painted(masks: Tensor, labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Instances `[N, H, W]` over each other in one map uint8 `[H, W]`: label + 1, 0 elsewhere."""
    result = torch.zeros(size, dtype=torch.uint8)
    for mask, label in zip(masks, labels.tolist(), strict=True):
        result[mask.bool()] = label + 1
    return result


def padded(image: Tensor, height: int, width: int) -> Tensor:
    """`[..., H, W]` with zeros on the right and below: `[..., height, width]`."""
    right, below = width - image.shape[-1], height - image.shape[-2]
    return torch.nn.functional.pad(image, (0, right, 0, below))


def _caption(example: Example) -> str | None:
    answer, asked = example.prediction.text, example.target.text
    return {"caption": answer, "vqa": f"{asked} {answer}"}.get(example.prediction.task, asked)
