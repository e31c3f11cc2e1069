"""A predictor that has not looked at the image: what any number has to beat.

Majority class, mean box, most frequent caption or answer, and a mask of the mean box, of the training data.
"""

from __future__ import annotations

from collections import Counter
from itertools import islice

import torch
from torch import Tensor, nn
from torchvision.ops import masks_to_boxes

from ufo.data.source import Source
from ufo.tasks import task_class
from ufo.types import IGNORE, Batch, Prediction


class TrivialPredictor(nn.Module):
    """Answers every image of a source alike; a stand-in for `UFO` wherever only `predict_batch` is used.

    It reads up to `limit` training samples of each source.
    """

    def __init__(self, sources: list[Source], limit: int = 500):
        super().__init__()
        self.answers = {s.name: _summary(s, limit) for s in sources}

    def predict_batch(self, batch: Batch) -> list[Prediction]:
        """The same answer for each image, scaled to its size."""
        answer = self.answers[batch.source]
        return [_predict(batch, answer, target.size) for target in batch.targets]


def _summary(source: Source, limit: int) -> dict:
    """Mean box `[1, 4]` in units of the image, majority label, most frequent text."""
    data = source.data("train")
    boxes: list[Tensor] = []
    labels, texts = Counter(), Counter()
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
        # a question is given, its answer is to be learned
        texts[sample["conversation"][1] if "conversation" in sample else sample.get("text", "")] += 1
    labels.pop(IGNORE, None)
    return {
        "box": torch.cat(boxes).mean(0, keepdim=True) if boxes else None,
        "label": labels.most_common(1)[0][0] if labels else 0,
        "text": texts.most_common(1)[0][0],
    }


def _mask_boxes(masks: Tensor) -> list[Tensor]:
    """Boxes around the masks `[N, H, W]` that are not empty, in units of the image: at most one tensor."""
    height, width = masks.shape[-2:]
    seen = masks[masks.flatten(1).any(1)]
    return [masks_to_boxes(seen) / torch.tensor([width, height, width, height])] if len(seen) else []


def _predict(batch: Batch, answer: dict, size: tuple[int, int]) -> Prediction:
    height, width = size
    common = {"task": batch.task, "classes": batch.classes}
    needs = task_class(batch.task).needs
    if "semantic" in needs:
        return Prediction(semantic=torch.full(size, answer["label"]), **common)
    if needs & {"caption", "conversation"}:
        return Prediction(text=answer["text"], **common)
    box = torch.zeros(1, 4) if answer["box"] is None else answer["box"]
    boxes = box * torch.tensor([width, height, width, height])
    prediction = Prediction(boxes=boxes, scores=torch.ones(1), **common)
    if "labels" in needs:
        prediction.labels = torch.tensor([answer["label"]])
    if "masks" in needs:
        x1, y1, x2, y2 = boxes[0].round().long().tolist()
        prediction.masks = torch.zeros(1, height, width, dtype=torch.bool)
        prediction.masks[:, y1:y2, x1:x2] = True
    return prediction
