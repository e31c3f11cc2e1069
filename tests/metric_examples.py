"""Small random predictions and targets of every task, for the tests of the metric callbacks."""

from __future__ import annotations

import random

import torch
from lightning.pytorch import LightningModule

from ufo.kinds import ClassMap, Objects, Referred, Text
from ufo.metrics.answers import AnswerScores
from ufo.metrics.base import MetricCallback, scoring
from ufo.metrics.box_map import BoxMAP
from ufo.metrics.caption import CaptionScores
from ufo.metrics.grounding import GroundingAccuracy
from ufo.metrics.mask_map import MaskMAP
from ufo.metrics.mean_iou import MeanIoU
from ufo.metrics.reasoning import ReasoningScores
from ufo.metrics.referring import ReferringScores
from ufo.ops.masks import rle_encode
from ufo.tasks import kind_of, task_class
from ufo.types import IGNORE, Batch, Prediction, Target

# what a task is scored by: its own metric, or that of its kind
METRICS = [
    BoxMAP,
    MaskMAP,
    MeanIoU,
    CaptionScores,
    GroundingAccuracy,
    ReferringScores,
    ReasoningScores,
    AnswerScores,
]
CLASSES = ("zero", "one", "two", "three")
H, W = 48, 64
Pair = tuple[Prediction, Target]


def metric_for(task: str, **settings) -> MetricCallback:
    """The metric that scores a task when all metrics are there, which it knows of."""
    metrics = [metric() for metric in METRICS]
    (found,) = scoring(task, metrics)
    chosen = type(found)(**settings)
    chosen.named = found.named
    return chosen


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
    """One image of any task, by its kind; `noise` 0 predicts its target, `empty` predicts nothing."""
    kind, g = kind_of(task), torch.Generator().manual_seed(id)
    classes = CLASSES if isinstance(kind, (Objects, ClassMap)) else ()
    prediction, target = Prediction(task, classes=classes), Target(id, (H, W), image=f"{id}.jpg")
    if isinstance(kind, Referred) and kind.masks:
        rng, boxes = random.Random(id), boxes_of(1, g)
        target.masks = rle_encode(masks_of(boxes))
        target.image, target.sentence = f"{id // 2}.jpg", rng.random() < 0.5
        found = masks_of(boxes + noise * 8 * torch.randn(1, 4, generator=g))
        prediction.masks = torch.zeros(1, H, W, dtype=torch.bool) if empty else found
        return prediction, target
    n = 1 if isinstance(kind, Referred) else 3
    target.boxes = boxes_of(n, g)
    target.labels = torch.randint(len(CLASSES), (n,), generator=g)
    if isinstance(kind, Text):
        say(kind, "caption" in task_class(task).needs, prediction, target, noise, empty)
        return prediction, target
    shifted = target.boxes + noise * 8 * torch.randn(n, 4, generator=g)
    masks = masks_of(target.boxes)
    if isinstance(kind, ClassMap):
        target.semantic = torch.full((H, W), IGNORE, dtype=torch.uint8)
        for mask, label in zip(masks, target.labels, strict=True):
            target.semantic[mask] = label
        wrong = torch.rand(H, W, generator=g) < (1 if empty else noise)
        prediction.semantic = torch.where(target.semantic == IGNORE, 0, target.semantic.long())
        prediction.semantic = (prediction.semantic + wrong) % len(CLASSES)
        return prediction, target
    kept = slice(0, 0) if empty else slice(None)
    prediction.boxes = shifted[kept]
    prediction.labels = target.labels[kept] if isinstance(kind, Objects) else None
    # equal scores on purpose: the order of images must not matter all the same
    prediction.scores = torch.full((n,), 0.5)[kept]
    if kind.masks:
        target.masks = rle_encode(masks)
        prediction.boxes, prediction.masks = None, masks_of(shifted)[kept]
    return prediction, target


def say(
    kind: Text, captions: bool, prediction: Prediction, target: Target, noise: float, empty: bool
) -> None:
    """Something that would be right, without some of its words."""
    rng = random.Random(target.id)
    if captions:
        target.captions = [sentence(rng) for _ in range(3)]
    else:
        target.text, target.answers = "what?", [f"{target.id} red ones", "none of these"]
    right = kind.truth(target)[0].split()
    prediction.text = "" if empty else " ".join(word for word in right if rng.random() >= noise)


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

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)
