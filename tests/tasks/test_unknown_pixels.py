"""Pixels that no answer voted for are unknown: no class is shown, and the metric counts them as wrong."""

from __future__ import annotations

import torch

from ufo.kinds.class_map import ClassMap
from ufo.ops.overlap import class_histograms
from ufo.tasks.semantic_segmentation import most_votes
from ufo.types import IGNORE, Prediction


def test_without_votes_a_pixel_is_unknown():
    votes = torch.zeros(3, 2, 2)
    assert (most_votes(votes) == IGNORE).all()
    votes[2, 0, 1] = 0.1
    assert most_votes(votes).tolist() == [[IGNORE, 2], [IGNORE, IGNORE]]
    assert (most_votes(torch.zeros(0, 2, 2)) == IGNORE).all()


def test_unknown_pixels_are_wrong():
    annotated = torch.tensor([[0, 1], [1, IGNORE]])
    unknown = torch.full((2, 2), IGNORE)
    right, predicted, counted = class_histograms(unknown, annotated, 2, IGNORE)
    assert right.tolist() == predicted.tolist() == [0, 0] and counted.tolist() == [1, 2]


def test_unknown_pixels_have_a_name_and_no_record():
    prediction = Prediction("semantic_segmentation", semantic=torch.tensor([[IGNORE, 1]]), classes=("a", "b"))
    assert ClassMap().summary(prediction, 0.0) in ("unknown 50%, b 50%", "b 50%, unknown 50%")
