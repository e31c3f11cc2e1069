"""A predictor that has not looked at the image: what any number has to beat.

Majority class, mean box, most frequent caption or answer, and a mask of the mean box, of the training data.
"""

from __future__ import annotations

from collections import Counter
from itertools import islice

import torch
from torch import Tensor, nn

from ufo.data.source import Source
from ufo.kinds import Text, Usual
from ufo.ops.masks import mask_boxes
from ufo.tasks import kind_of
from ufo.types import IGNORE, Batch, Prediction


class TrivialPredictor(nn.Module):
    """Answers every image of a source alike; a stand-in for `UFO` wherever only `predict_batch` is used.

    It reads up to `limit` training samples of each source.
    """

    def __init__(self, sources: list[Source], limit: int = 500):
        super().__init__()
        self.usual = {s.name: usual(s, limit) for s in sources}

    def predict_batch(self, batch: Batch) -> list[Prediction]:
        """The same answer for each image, scaled to its size."""
        kind, usual = kind_of(batch.task), self.usual[batch.source]
        return [
            Prediction(batch.task, classes=batch.classes, **kind.trivial(usual, target.size))
            for target in batch.targets
        ]


def usual(source: Source, limit: int) -> Usual:
    """Mean box `[1, 4]` in units of the image, majority label, most frequent text."""
    data = source.data("train")
    boxes: list[Tensor] = []
    labels: Counter[int] = Counter()
    texts: Counter[str] = Counter()
    kind = kind_of(source.task)
    for i in islice(range(len(data)), limit):
        sample = data[i]
        height, width = sample["image"].shape[-2:]
        if "boxes" in sample:
            unit = torch.tensor([width, height, width, height])
            boxes.append(sample["boxes"].as_subclass(Tensor) / unit)
            labels.update(sample["labels"].tolist() if "labels" in sample else [])
        elif "masks" in sample:  # a mask without a box, as ReasonSeg has it
            boxes += _mask_boxes(sample["masks"].as_subclass(Tensor))
        if "semantic" in sample:
            classes, counts = sample["semantic"].as_subclass(Tensor).unique(return_counts=True)
            labels.update(dict(zip(classes.tolist(), counts.tolist(), strict=True)))
        if isinstance(kind, Text):
            texts.update(kind.truth(data.target(i)))
    labels.pop(IGNORE, None)
    return Usual(
        box=torch.cat(boxes).mean(0, keepdim=True) if boxes else None,
        label=labels.most_common(1)[0][0] if labels else 0,
        text=texts.most_common(1)[0][0] if texts else "",
    )


def _mask_boxes(masks: Tensor) -> list[Tensor]:
    """Boxes around the masks `[N, H, W]` that are not empty, in units of the image: at most one tensor."""
    height, width = masks.shape[-2:]
    seen = masks[masks.flatten(1).bool().any(1)]  # of uint8 `any` is uint8, which is no index
    unit = torch.tensor([width, height, width, height])
    return [mask_boxes(seen, whole_pixels=False) / unit] if len(seen) else []
