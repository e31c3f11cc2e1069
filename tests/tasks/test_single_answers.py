"""Segmentation by a text, and questions: one answer per image, empty where nothing can be read."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ufo.tasks import Answers
from ufo.tasks.wording import WORDINGS

SEGMENTATION = pytest.mark.parametrize("name", ["referring_segmentation", "reasoning_segmentation"])


def answers(text: str, probability: Tensor | None = None, size: tuple[int, int] = (12, 12)) -> Answers:
    def masks(rows: Tensor) -> Tensor:
        assert rows.tolist() == [0] and probability is not None, "no mask was to be read"
        return probability[None]

    return Answers([text], torch.tensor([0.7]), None, size, (), [text.count("<MASK>")], masks)


@SEGMENTATION
@pytest.mark.parametrize("family", sorted(WORDINGS))
def test_what_is_taught_is_read(name, family, make_tiny_task, make_batch):
    task, batch = make_tiny_task(name).worded(WORDINGS[family]), make_batch(name, (1, 3, 0))
    made = task.supervise(batch, None)
    assert made.mask_counts == [1, 1, 1]
    for text, mask, shapes in zip(made.answers, made.masks, batch.masks, strict=True):
        assert text.count("<MASK>") == task.mask_tokens
        found = task.parse(answers(text, mask.float()))
        assert torch.equal(found.masks[0], shapes.sum(0) > 0)
        assert found.labels is None and found.scores.tolist() == pytest.approx([0.7])


@SEGMENTATION
@pytest.mark.parametrize("text", ["", "It is.", "<MASK><MASK><MASK>.", "Sure, <MASK>"])
def test_too_few_mask_tokens_are_an_empty_mask(name, text, make_tiny_task):
    found = make_tiny_task(name).parse(answers(text, size=(5, 7)))
    assert found.masks.shape == (1, 5, 7) and not found.masks.any()
    assert found.boxes.tolist() == [[0, 0, 0, 0]] and found.text == text


@SEGMENTATION
def test_more_mask_tokens_than_one_mask_needs(name, make_tiny_task):
    found = make_tiny_task(name).parse(answers("<MASK>" * 9, torch.ones(12, 12)))
    assert found.masks.all() and found.boxes.tolist() == [[0, 0, 12, 12]]


@SEGMENTATION
def test_the_largest_parts_of_a_mask(name, make_tiny_task):
    """Five parts of 1, 2, 3, 4 and 5 pixels in rows; two pixels that touch at a corner are one part."""
    mask = torch.zeros(12, 12)
    for number in range(1, 6):
        mask[2 * number, :number] = 1
    mask[0, 8] = mask[1, 9] = 1  # one part of two pixels
    found = lambda count: make_tiny_task(name, largest_parts=count).parse(answers("<MASK>" * 4, mask))  # noqa: E731
    assert torch.equal(found(0).masks[0], mask.bool()) and torch.equal(found(6).masks[0], mask.bool())
    assert found(5).masks.sum() == mask.sum() - 1 and not found(5).masks[0, 2].any()
    assert found(2).masks.sum() == 9 and found(2).boxes.tolist() == [[0, 8, 5, 11]]
    assert not make_tiny_task(name, largest_parts=5).parse(answers("", mask)).masks.any()


def test_the_model_takes_the_first_masks_of_an_answer(make_model, make_batch, monkeypatch):
    """Also in the midst of a sentence, and when it says more of them than a mask needs."""
    from ufo import model as module
    from ufo.head.decoding import Decoded

    model, batch = make_model(), make_batch("referring_segmentation", (1, 1))
    mask, end = model.tokenizer.mask_id, model.tokenizer.end_id
    word = model.tokenizer.encode(["owl"])[0][1]
    said = torch.tensor([[word, *[mask] * 4, word, mask, mask], [mask, word, mask, mask, mask, *[end] * 3]])
    features = torch.randn(2, 8, model.backbone.width, generator=torch.Generator().manual_seed(0))
    seen = []

    def keep(embeddings, *_):
        seen.append(embeddings)
        return torch.zeros(len(embeddings), 4, 4)

    monkeypatch.setattr(module, "decode", lambda *_, **__: Decoded(said, torch.ones(2, 1), features))
    monkeypatch.setattr("ufo.head.said.retrieve_masks", keep)
    found = model.predict_batch(batch)
    assert torch.equal(seen[0][0], features[0, 1:5])
    assert torch.equal(seen[1][0], features[1, [0, 2, 3, 4]])
    assert all(prediction.masks.shape == (1, 12, 12) for prediction in found)


def test_turns_of_a_conversation(make_tiny_task, make_batch):
    task, batch = make_tiny_task("vqa"), make_batch("vqa", (1, 1, 1))
    batch.conversations = [["a?", "b"], ["a?", "b", "c?", "d"], ["a?", "b", "c?", "d", "e?", "f"]]
    assert task.supervise(batch, None).answers == [
        "b",
        [("b", True), ("c?", False), ("d", True)],
        [("b", True), ("c?", False), ("d", True), ("e?", False), ("f", True)],
    ]
    assert task.parse(answers(" seven ")).text == "seven"
