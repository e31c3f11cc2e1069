"""Any square number of mask tokens: answers, losses and the sub-pixels of a mask follow the setting."""

from __future__ import annotations

import pytest
import torch
from tiny_fixtures import CLASSES

import ufo.model
from ufo.head.decoded import Decoded
from ufo.model import UFO
from ufo.ops.masks import plane_side
from ufo.tasks import make_task, task_class, task_names

SEGMENTING = [name for name in task_names() if task_class(name).mask_tokens]


@pytest.fixture
def model_of(make_backbone, tokenizer, make_tiny_task):
    """A model of one task with so many mask tokens."""

    def make(name: str, number: int) -> UFO:
        task = make_tiny_task(name, mask_tokens=number, max_length=40)
        return UFO(make_backbone(), tokenizer, {name: task}, {name: CLASSES}, mask_points=16).eval()

    return make


@pytest.mark.parametrize("number", [1, 4, 9, 25])
@pytest.mark.parametrize("name", SEGMENTING)
def test_answers_and_losses_follow(name, number, model_of, make_batch):
    model, batch = model_of(name, number), make_batch(name)
    asked = model.task(name).supervise(batch, model.grid(model.task(name), *batch.image_size))
    held = {text.count("<MASK>") for text in asked.answers if isinstance(text, str)}
    assert held - {0} == {number}
    losses = model.loss(batch)
    losses["loss"].backward()
    assert all(torch.isfinite(value) for value in losses.values()) and losses["dice"] > 0
    assert model.backbone.output_embedding.grad[model.tokenizer.mask_id].abs().sum() > 0


@pytest.mark.parametrize("number", [1, 4, 9, 25])
def test_a_mask_has_a_plane_for_each_token(number, model_of, make_batch, tokenizer, monkeypatch):
    """An answer with all of them is a mask of s x s sub-pixels per patch, one with fewer is none."""
    model, batch = model_of("instance_segmentation", number), make_batch("instance_segmentation", (1,))
    rows = tokenizer.encode(["owl," + "<MASK>" * number, "owl," + "<MASK>" * (number - 1), "background"])
    ids = torch.full((16, number + 4), tokenizer.end_id)
    for row in range(16):
        ids[row, : len(rows[row % 3]) - 1] = torch.tensor(rows[row % 3][1:])
    features = torch.randn(*ids.shape, model.backbone.width)
    decoded = Decoded(ids, torch.rand(16, 1), features)
    monkeypatch.setattr(ufo.model, "decode", lambda *_: decoded)
    with torch.no_grad():
        (answers,) = model.answer_batch(batch)
        logits = answers.retrieve_logits(torch.tensor([0, 3]))
        prediction = model.task("instance_segmentation").parse(answers)
    side = plane_side(number) * 24 // 4  # patches of 4 pixels
    assert logits.shape == (2, side, side)
    assert set(prediction.rows.tolist()) <= set(range(0, 16, 3)) and len(prediction.rows)
    assert prediction.masks.shape[1:] == (24, 24)


@pytest.mark.parametrize("number", [-1, 0, 2, 15, 24])
@pytest.mark.parametrize("name", SEGMENTING)
def test_what_is_no_square_is_refused(name, number):
    with pytest.raises(ValueError, match=f"task '{name}': mask_tokens={number}: .* use 1, 4, 9, 16"):
        make_task(name, image_size=24, mask_tokens=number)
