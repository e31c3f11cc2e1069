"""Accuracy of grounded boxes."""

import pytest
import torch

from ufo.metrics.grounding import BoxAccuracy

UNIT = torch.tensor([[0.0, 0, 10, 10]])


def scores(boxes: torch.Tensor, target: torch.Tensor, threshold: float = 0.5) -> list[float]:
    metric = BoxAccuracy(threshold)
    metric.update(boxes, target)
    return [float(value) for value in metric.compute().values()]


def test_accuracy__iou_of_exactly_half_is_right():
    assert scores(UNIT, torch.tensor([[0.0, 0, 10, 5]])) == [1, 0.5]
    assert scores(UNIT, torch.tensor([[0.0, 0, 10, 4.99]]))[0] == 0


def test_accuracy__zero_box_is_wrong_and_empty_target_does_not_crash():
    assert scores(torch.zeros(1, 4), UNIT) == [0, 0]
    assert scores(torch.zeros(1, 4), torch.zeros(1, 4)) == [0, 0]


def test_accuracy__counts_every_sentence_once():
    metric = BoxAccuracy()
    metric.update(UNIT.repeat(3, 1), UNIT.repeat(3, 1))
    metric.update(UNIT + 20, UNIT)
    assert {k: float(v) for k, v in metric.compute().items()} == {"Acc@0.5": 0.75, "mean_IoU": 0.75}


def test_accuracy__half_precision_boxes():
    assert scores(UNIT.bfloat16(), UNIT)[0] == 1


def test_accuracy__number_of_boxes_must_match():
    with pytest.raises(ValueError, match="one box per sentence"):
        scores(UNIT.repeat(2, 1), UNIT)
