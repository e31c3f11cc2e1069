"""A model that is called with batches of one's own: losses, predictions, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_a_model_is_called_as_the_detectors_of_torchvision(make_model, make_batch):
    model, batch = make_model(), make_batch("detection")
    losses, same = model.train()(batch), model.loss(batch)
    assert losses.keys() == same.keys() and torch.equal(losses["loss"], same["loss"])
    batch.sizes = [(10, 20), (30, 40)]
    with torch.no_grad():
        found = model.eval()(batch)
    assert [prediction.task for prediction in found] == ["detection"] * 2
    assert model.device == torch.device("cpu")
    with pytest.raises(TypeError, match=r"model\.predict\(pictures\)"):
        model(batch.images)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"images": torch.rand(2, 3, 24, 24)},
            r"uint8 \[B, 3, H, W\], .* not torch.float32 \[2, 3, 24, 24\]",
        ),
        ({"images": torch.zeros(2, 24, 24, 3, dtype=torch.uint8)}, r"not torch.uint8 \[2, 24, 24, 3\]"),
        ({"texts": []}, "2 images and 0 texts"),
        ({"boxes": [torch.zeros(1, 4)]}, "2 images and 1 boxes"),
        ({"boxes": []}, "2 images and 0 boxes"),
        ({"boxes": torch.zeros(3, 4)}, "2 images and 3 boxes"),
        ({"boxes": torch.zeros(2, 5, 4)}, "image 0 of the batch has 5 boxes, 2 labels"),
        ({"boxes": torch.zeros(2, 4)}, r"boxes of an image are \[N, 4\], not \[4\]"),
        ({"boxes": [torch.tensor([[9.0, 9, 5, 5]])] * 2}, "not 9, 9, 5, 5; convert x, y, width, height"),
        ({"boxes": [torch.tensor([[0.1, 0.2, 0.5, 0.6]])] * 2}, "24 wide and 24 high, not 0.1"),
        ({"boxes": [torch.tensor([[1.0, 2, 300, 400]])] * 2}, "scale boxes with images"),
        ({"labels": [torch.tensor([0])] * 2}, "image 0 of the batch has 2 boxes, 1 labels"),
        ({"labels": [torch.tensor([0, 99]), torch.zeros(3).long()]}, r"not \[0, 99\]"),
        ({"labels": [torch.zeros(2), torch.zeros(3)]}, "whole numbers"),
        ({"classes": ()}, r"give batch\.classes the names"),
        ({"task": "grounding", "texts": ["", ""]}, r"give batch\.texts one for each image"),
        ({"classes": tuple(f"the cat number {i}" for i in range(200))}, "tokens and the model reads"),
    ],
)
def test_a_batch_of_ones_own_is_checked(make_model, make_batch, change, words):
    model, batch = make_model().train(), make_batch("detection")
    model(batch)
    with pytest.raises(ValueError, match=words):
        model(replace(batch, **change))


def test_answers_need_the_original_sizes(make_model, make_batch):
    batch = make_batch("detection")
    batch.sizes = []
    with pytest.raises(ValueError, match=r"2 images and 0 original sizes, .* set batch\.sizes"):
        make_model().predict_batch(batch)
