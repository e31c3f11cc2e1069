"""Pixels that no answer voted for are unknown: no class is shown, and the metric counts them as wrong."""

from __future__ import annotations

import pytest
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


@pytest.mark.parametrize("objects", [(0, 0), (0, 2)])
def test_maps_of_which_nothing_counts_have_a_finite_loss(make_model, make_batch, objects):
    """A batch of them teaches nothing, and does no harm."""
    model = make_model().train()
    losses = model.loss(make_batch("semantic_segmentation", objects))
    assert all(value.isfinite() for value in losses.values())
    losses["loss"].backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)
    if not any(objects):
        assert losses["loss"] == 0 and not any(gradient.any() for gradient in gradients)
