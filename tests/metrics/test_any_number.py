"""Sentences that mean nothing or several objects, in a validation: beside those that mean one."""

from __future__ import annotations

import pytest
import torch

from ufo.metrics.grounding import GroundingAccuracy
from ufo.metrics.referring import ReferringScores
from ufo.ops.masks import rle_encode
from ufo.types import Prediction, Target

SIZE = (20, 20)
A, B, FAR = [2.0, 2, 10, 10], [11.0, 2, 19, 10], [0.0, 15, 5, 20]
NOTHING = [0.0, 0, 0, 0]
ONE = [([A], [A]), ([A], [NOTHING]), ([B], [FAR])]  # what is meant, what is answered
PAIRS = [*ONE, ([], [NOTHING]), ([], [A]), ([A, B], [B, A]), ([A, B], [A])]


def fill(boxes):
    masks = torch.zeros(len(boxes), *SIZE, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[int(y1) : int(y2), int(x1) : int(x2)] = True
    return masks


def measured(callback, pairs):
    metric = callback.make_metric(())
    for number, (meant, answered) in enumerate(pairs):
        boxes = torch.tensor(answered)
        prediction = Prediction("x", boxes, torch.ones(len(boxes)), masks=fill(answered))
        target = Target(number, SIZE, boxes=torch.tensor(meant).view(-1, 4), masks=rle_encode(fill(meant)))
        metric.update(*callback.record(prediction, target, ()))
    return {name: float(value) for name, value in metric.compute().items()}


def test_boxes():
    found = measured(GroundingAccuracy(), PAIRS)
    assert found["Acc@0.5"] == pytest.approx(1 / 3)  # of the sentences that mean one object
    assert found["N-acc"] == 1 / 2 and found["T-acc"] == pytest.approx(4 / 5)
    assert found["F1=1@0.5"] == pytest.approx(3 / 7)


def test_masks():
    found = measured(ReferringScores(), PAIRS)
    assert found["N-acc"] == 1 / 2 and found["T-acc"] == pytest.approx(4 / 5)
    # 1, 0, 0; 1, 0; 1, half of both
    assert found["gIoU"] == pytest.approx(3.5 / 7)
    pixels = torch.tensor([[64, 64], [0, 64], [0, 64 + 25], [0, 0], [0, 64], [128, 128], [64, 128]]).sum(0)
    assert found["cIoU"] == pytest.approx(float(pixels[0] / pixels[1]))


@pytest.mark.parametrize(("callback", "names"), [(GroundingAccuracy, 2), (ReferringScores, 2)])
def test_data_where_every_sentence_means_one_object_have_the_published_numbers_alone(callback, names):
    found = measured(callback(), ONE)
    assert len(found) == names and not {"N-acc", "T-acc"} & set(found)


def test_an_object_without_a_mask_is_not_nothing():
    """Of some objects only the box is known: what is answered is wrong, and no answer to nothing."""
    callback = ReferringScores()
    target = Target(0, SIZE, boxes=torch.tensor([A]), masks=rle_encode(fill([NOTHING])))
    prediction = Prediction("x", torch.tensor([A]), torch.ones(1), masks=fill([A]))
    _, empty, nothing = callback.record(prediction, target, ())
    assert not empty and not nothing
