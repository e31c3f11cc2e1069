"""Expressions that mean nothing or several objects: what is taught is read, and a probability decides."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from test_single_answers import SEGMENTATION
from tiny_mllm import FAMILIES, make_mllm
from torch.testing import assert_close

from ufo.head.decoding import decode
from ufo.head.strategy import check_settings
from ufo.head.teacher import teacher_forcing
from ufo.kinds.base import ImageInfo
from ufo.tasks import Answers
from ufo.tasks.wording import WORDINGS

EVERY = pytest.mark.parametrize("family", sorted(WORDINGS))
TASKS = ["grounding", "referring_segmentation", "reasoning_segmentation"]
ROOM = {"nothing": True, "max_objects": 3, "max_length": 60}


def answers(text, masks=None, refusal=0.0, size=(12, 12)):
    """The answer of one image; `masks [n, H, W]` are what its mask tokens find."""

    def retrieve(rows, which):
        assert rows.tolist() == [0] * len(which)
        return masks[which].float()

    counts, refusals = [text.count("<MASK>")], torch.tensor([refusal])
    return Answers([text], torch.tensor([0.7]), None, size, (), counts, retrieve, refusals=refusals)


@EVERY
def test_boxes_are_read_as_they_are_taught(family, make_tiny_task, make_batch):
    task = make_tiny_task("grounding", **ROOM).worded(WORDINGS[family])
    batch = make_batch("grounding", (0, 1, 3))
    made = task.supervise(batch, None)
    assert made.answers[0] == WORDINGS[family].nothing
    for text, boxes in zip(made.answers[1:], batch.boxes[1:], strict=True):
        found = task.parse(answers(text)).boxes
        assert found[:, 0].tolist() == sorted(found[:, 0].tolist())
        nearest = torch.cdist(found, boxes, p=torch.inf).min(0)
        assert nearest.values.max() <= 12 / task.num_bins and len(found) == len(boxes)


def test_more_boxes_than_an_answer_lists(make_tiny_task, make_batch):
    """The largest ones, whatever their order."""
    task, batch = make_tiny_task("grounding", **ROOM), make_batch("grounding", (4,), seed=1)
    sides = batch.boxes[0][:, 2:] - batch.boxes[0][:, :2]
    largest = sides.prod(1).sort(descending=True).values[:3]
    found = task.parse(answers(task.supervise(batch, None).answers[0])).boxes
    assert_close((found[:, 2:] - found[:, :2]).prod(1).sort(descending=True).values, largest, atol=9, rtol=0)


@EVERY
@SEGMENTATION
def test_masks_are_read_as_they_are_taught(name, family, make_tiny_task, make_batch):
    task = make_tiny_task(name, **ROOM).worded(WORDINGS[family])
    batch = make_batch(name, (0, 2, 4))
    made = task.supervise(batch, None)
    assert made.answers[0] == WORDINGS[family].nothing and made.mask_counts[0] == 0
    taught = iter(made.masks.split(made.mask_counts[1:]))
    for text, masks, shapes in zip(made.answers[1:], taught, batch.masks[1:], strict=True):
        assert text.count("<MASK>") == task.mask_tokens * len(masks) and 1 <= len(masks) <= 3
        found = task.parse(answers(text, masks))
        assert torch.equal(found.masks, masks.bool())
        assert torch.equal(found.masks.any(0), shapes.any(0)), "pixels were lost"


@pytest.mark.parametrize("name", TASKS)
def test_the_probability_of_nothing_decides(name, make_tiny_task, make_batch):
    task, batch = make_tiny_task(name, **ROOM, presence_threshold=0.3), make_batch(name, (1,))
    made = task.supervise(batch, None)
    for refusal, there in [(0.0, True), (0.69, True), (0.71, False), (1.0, False)]:
        found = task.parse(answers(made.answers[0], made.masks, refusal))
        assert found.presence.item() == pytest.approx(1 - refusal)
        assert found.boxes.any().item() is there
        assert found.masks is None or found.masks.any().item() is there
        (record,) = task.kind.records(found, ImageInfo("a.png", 1, (12, 12)), (12, 12), "owl")
        assert record["presence"] == pytest.approx(1 - refusal) and any(record["bbox"]) is there
        said = task.kind.summary(found, 0.3, "owl")
        assert f"{1 - refusal:.0%} that it is there" in said and (": nothing;" in said) is not there


@pytest.mark.parametrize("name", TASKS)
def test_several_objects_are_several_records(name, make_tiny_task, make_batch):
    task, batch = make_tiny_task(name, **ROOM), make_batch(name, (3,), seed=2)
    made = task.supervise(batch, None)
    found = task.parse(answers(made.answers[0], made.masks))
    records = task.kind.records(found, ImageInfo("a.png", 1, (12, 12)), (12, 12), "owl")
    assert [r["bbox"][0] for r in records] == found.boxes[:, 0].tolist() and len(records) == len(found.boxes)
    assert task.kind.summary(found, 0.3, "owl").count("width") == len(records) > 1


@pytest.mark.parametrize("name", TASKS)
def test_what_may_not_be_nothing_is_not_learned_as_nothing(name, make_tiny_task, make_batch):
    task, batch = make_tiny_task(name), make_batch(name, (1, 0))
    if name == "grounding":
        with pytest.raises(ValueError, match=r"'the owl'.*tasks\.grounding\.nothing=true"):
            task.supervise(batch, None)
    else:  # as published: an empty mask
        assert not task.supervise(batch, None).masks[1].any()


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("changes", [{"max_objects": 0}, {"presence_threshold": 1.5}, {"max_objects": 9}])
def test_settings_out_of_range(name, changes, make_tiny_task):
    with pytest.raises(ValueError, match=f"'{name}'.*{next(iter(changes))}"):
        make_tiny_task(name, **changes)


@pytest.mark.parametrize("name", TASKS)
def test_the_least_room_is_enough_to_learn_whole_answers(name, make_model, make_tiny_task, make_batch):
    """An answer that was cut would teach another number, or half a mask."""
    model, batch = make_model(), make_batch(name, (2, 2))
    room = 2 * (make_tiny_task(name).object_tokens + 1)
    model.tasks[name] = task = make_tiny_task(name, max_objects=2, max_length=room)
    with patch("ufo.head.teacher.teacher_forcing", wraps=teacher_forcing) as forced:
        assert model.loss(batch)["loss"].isfinite()
    taught = model.tokenizer.decode([row.ids for row in forced.call_args.args[1]])
    assert ["".join(text.split()) for text in taught] == task.supervise(batch, None).answers


def test_boxes_have_no_more_tokens_than_the_network_has_positions(make_model, make_tiny_task, make_batch):
    """Numbers that are spelled in pieces take more tokens than the least that settings are checked for."""
    model = make_model(max_positions=16)
    model.tasks["grounding"] = make_tiny_task("grounding", max_objects=4, max_length=32)
    assert model.loss(make_batch("grounding", (4, 1)))["loss"].isfinite()


def test_beams_do_not_know_nothing(make_tiny_task):
    with pytest.raises(ValueError, match="num_beams=1, or nothing=false"):
        check_settings(make_tiny_task("grounding", nothing=True, num_beams=2))


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("limits", [{}, {"constrained": True}], ids=["free", "constrained"])
def test_decoding_names_the_best_object_and_the_probability_of_none(name, limits, make_model, make_batch):
    """Neither draft nor grammar changes the probability, and no answer begins as a refusal does."""
    if limits and name != "grounding":
        return
    model, batch = make_model(), make_batch(name, (1, 1))
    plain, batch.sizes = model.task(name), [(12, 12)] * 2
    task = type(plain)(**plain.settings | limits | {"nothing": True})
    refusal = model.tokenizer.encode([task.refusal])[0][1]
    with torch.no_grad():
        model.backbone.output_embedding[refusal] *= 40  # else a random model would rarely refuse
        asked = task.ask(batch, None)
        context = model.encode(batch.images, asked.prompts, None, task)
        decoded = decode(model.backbone, context, model.tokenizer, task)
        start = torch.full((2, 1), model.tokenizer.start_id)
        logits = model.backbone.answer(context, start)[:, 0] @ model.backbone.output_embedding.T
    assert_close(decoded.refusals, logits.softmax(1)[:, refusal])
    assert not decoded.ids[:, 0].eq(refusal).any()
    if not limits:
        logits[:, refusal] = -torch.inf
        assert torch.equal(decoded.ids[:, 0], logits.argmax(1))


@pytest.mark.parametrize("family", FAMILIES)
def test_no_other_answer_begins_as_nothing_does(family):
    model = make_mllm(family)
    words = WORDINGS[model.backbone.wording]
    others = [words.write_box((1, 2, 3, 4)), *(t.format(mask="<MASK>") for t in words.mask_answers)]
    nothing, *begins = (ids[1] for ids in model.tokenizer.encode([words.nothing, *others]))
    assert nothing not in begins
