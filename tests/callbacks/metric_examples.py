"""Small random predictions and targets of every task, for the tests of the metric callbacks."""

from __future__ import annotations

import random

import torch
from lightning.pytorch import LightningModule

from ufo.metrics.answers import AnswerScores
from ufo.metrics.box_map import BoxMAP
from ufo.metrics.caption import CaptionScores
from ufo.metrics.grounding import GroundingAccuracy
from ufo.metrics.mask_map import MaskMAP
from ufo.metrics.mean_iou import MeanIoU
from ufo.metrics.reasoning import ReasoningScores
from ufo.metrics.referring import ReferringScores
from ufo.ops.masks import rle_encode
from ufo.types import IGNORE, Batch, Prediction, Target

CLASSES = ("zero", "one", "two", "three")
CALLBACKS = {
    "detection": BoxMAP,
    "instance_segmentation": MaskMAP,
    "semantic_segmentation": MeanIoU,
    "caption": CaptionScores,
    "grounding": GroundingAccuracy,
    "referring_segmentation": ReferringScores,
    "reasoning_segmentation": ReasoningScores,
    "vqa": AnswerScores,
}
HEADLINES = {
    "detection": "mAP",
    "instance_segmentation": "mAP",
    "semantic_segmentation": "mIoU",
    "caption": "BLEU-4",
    "grounding": "Acc@0.5",
    "referring_segmentation": "cIoU",
    "reasoning_segmentation": "gIoU",
    "vqa": "accuracy",
}
CLASSIFYING = ("detection", "instance_segmentation", "semantic_segmentation")
REFERRING = ("referring_segmentation", "reasoning_segmentation")
H, W = 48, 64
Pair = tuple[Prediction, Target]


def boxes_of(n: int, g: torch.Generator) -> torch.Tensor:
    corner = torch.rand(n, 2, generator=g) * torch.tensor([W - 24, H - 24])
    return torch.cat([corner, corner + 4 + torch.rand(n, 2, generator=g) * 20], dim=1)


def masks_of(boxes: torch.Tensor) -> torch.Tensor:
    x, y = torch.arange(W), torch.arange(H)[:, None]
    x1, y1, x2, y2 = (side[:, None, None] for side in boxes.unbind(1))
    return (x >= x1) & (x < x2) & (y >= y1) & (y < y2)


def sentence(rng: random.Random) -> str:
    words = [
        "a",
        "red",
        "blue",
        "seven",
        "two",
        "left of",
        "above",
        "the dog's",
        "(big)",
        "T-shirt",
    ]
    return " ".join(rng.choices(words, k=8)) + "."


def example(task: str, id: int, noise: float, empty: bool = False) -> Pair:
    """One image; `noise` 0 predicts its target, `empty` predicts nothing."""
    g, rng = torch.Generator().manual_seed(id), random.Random(id)
    prediction = Prediction(task, classes=CLASSES if task in CLASSIFYING else ())
    target = Target(id, (H, W), image=f"{id}.jpg")
    if task == "caption":
        target.captions = [sentence(rng) for _ in range(3)]
        said = target.captions[1].split()
        prediction.text = "" if empty else " ".join(w for w in said if rng.random() >= noise)
        return prediction, target
    if task == "vqa":
        target.answers = [f"{id}", "none of these"]
        prediction.text = "" if empty else str(id + (rng.random() < noise))
        return prediction, target
    if task in REFERRING:
        boxes = boxes_of(1, g)
        target.masks = rle_encode(masks_of(boxes))
        target.image, target.sentence = f"{id // 2}.jpg", rng.random() < 0.5
        found = masks_of(boxes + noise * 8 * torch.randn(1, 4, generator=g))
        prediction.masks = torch.zeros(1, H, W, dtype=torch.bool) if empty else found
        return prediction, target
    n = 1 if task == "grounding" else 3
    target.boxes = boxes_of(n, g)
    target.labels = torch.randint(len(CLASSES), (n,), generator=g)
    shifted = target.boxes + noise * 8 * torch.randn(n, 4, generator=g)
    masks = masks_of(target.boxes)
    if task == "semantic_segmentation":
        target.semantic = torch.full((H, W), IGNORE, dtype=torch.uint8)
        for mask, label in zip(masks, target.labels, strict=True):
            target.semantic[mask] = label
        wrong = torch.rand(H, W, generator=g) < (1 if empty else noise)
        prediction.semantic = torch.where(target.semantic == IGNORE, 0, target.semantic.long())
        prediction.semantic = (prediction.semantic + wrong) % len(CLASSES)
        return prediction, target
    if task == "instance_segmentation":
        target.masks = rle_encode(masks)
    kept = slice(0, 0) if empty else slice(None)
    prediction.boxes = shifted[kept]
    prediction.labels = target.labels[kept]
    # equal scores on purpose: the order of images must not matter all the same
    prediction.scores = torch.full((n,), 0.5)[kept]
    if task == "instance_segmentation":
        prediction.boxes, prediction.masks = None, masks_of(shifted)[kept]
    return prediction, target


def batch_of(task: str, pairs: list[Pair], source: str = "") -> Batch:
    return Batch(
        task=task,
        source=source or f"digits/{task}",
        classes=CLASSES,
        images=torch.zeros(len(pairs), 3, 8, 8, dtype=torch.uint8),
        texts=[""] * len(pairs),
        targets=[target for _, target in pairs],
    )


class Replay(LightningModule):
    """Answers with the predictions that `example` gives for the ids of a batch's targets."""

    def __init__(self, noise: float) -> None:
        super().__init__()
        self.noise = noise
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> list:
        return [example(batch.task, target.id, self.noise)[0] for target in batch.targets]

    test_step = validation_step

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)
