"""The trivial predictor answers every task in the form that its metric takes, and alike for every image."""

from __future__ import annotations

import pytest
import torch
from torchvision import tv_tensors

from ufo.baselines import TrivialPredictor
from ufo.data.source import Source
from ufo.kinds import ClassMap, Objects, Referred, Text
from ufo.tasks import kind_of, task_class, task_names
from ufo.types import IGNORE, Batch, Target


class Data:
    """Three images of 8 x 16 pixels with every annotation, or with masks alone."""

    classes = ("one", "two")
    provides = frozenset.union(*(task_class(name).needs for name in task_names()))

    def __init__(self, boxes: bool = True) -> None:
        self.boxes = boxes

    def __len__(self) -> int:
        return 3

    def __getitem__(self, i: int) -> dict:
        mask = torch.zeros(1, 8, 16, dtype=torch.uint8)
        mask[0, 2:6, 4:12] = 1
        semantic = torch.full((8, 16), IGNORE, dtype=torch.uint8)
        semantic[:, :3], semantic[0, 3] = 1, 0
        sample = {
            "image": tv_tensors.Image(torch.zeros(3, 8, 16, dtype=torch.uint8)),
            "masks": tv_tensors.Mask(mask),
            "semantic": tv_tensors.Mask(semantic),
        }
        if self.boxes:
            box = torch.tensor([[4.0, 2, 12, 6]])
            boxes = tv_tensors.BoundingBoxes(box, format="XYXY", canvas_size=(8, 16))
            sample |= {"boxes": boxes, "labels": torch.tensor([1])}
        return sample

    def target(self, i: int) -> Target:
        texts = {"captions": ["often" if i else "once"], "answers": ["red" if i else "blue"]}
        return Target(i, (8, 16), boxes=torch.zeros(2, 4), **texts)


def predict(task: str, boxes: bool = True) -> list:
    source = Source(name=f"x/{task}", task=task, train=lambda: Data(boxes))
    batch = Batch(task, source.name, Data.classes, torch.zeros(2, 3, 8, 8, dtype=torch.uint8), ["", ""])
    batch.targets = [Target(0, (8, 16)), Target(1, (16, 16))]
    return TrivialPredictor([source]).predict_batch(batch)


@pytest.mark.parametrize("task", task_names())
def test_every_task_gets_what_its_metric_reads(task):
    first, second = predict(task)
    kind = kind_of(task)
    boxes = isinstance(kind, (Objects, Referred))
    assert first.task == task
    assert (first.semantic is not None) == isinstance(kind, ClassMap)
    assert (first.labels is not None) == isinstance(kind, Objects)
    assert (first.boxes is not None) == boxes
    assert (first.masks is not None) == (boxes and kind.masks)
    assert bool(first.text) == isinstance(kind, Text)
    if boxes:
        assert first.boxes.tolist() == [[4, 2, 12, 6]] and second.boxes.tolist() == [[4, 4, 12, 12]]
    if first.masks is not None:
        assert first.masks[0, 2:6, 4:12].all() and first.masks.sum() == 32


def test_the_most_frequent_answers():
    assert predict("semantic_segmentation")[0].semantic.eq(1).all()
    assert predict("caption")[0].text == "often"
    assert predict("vqa")[0].text == "red"


def test_a_mask_without_a_box_has_the_box_around_it():
    (mask,) = predict("reasoning_segmentation", boxes=False)[0].masks
    assert mask[2:5, 4:11].all() and not mask[:, :4].any() and not mask[:2].any()
