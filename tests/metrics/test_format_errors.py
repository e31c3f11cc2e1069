"""How many answers are not what their task promises: counted where a task reads them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from commands import compose
from tiny_fixtures import BINS, CLASSES, DENSE

import ufo.model
from ufo.build import build_callbacks
from ufo.callbacks.best import BestMetrics
from ufo.head.decoded import Decoded
from ufo.metrics.base import scoring
from ufo.metrics.format_errors import FormatErrorRate, FormatErrors
from ufo.tasks import kind_of, task_names
from ufo.tasks.base import Answers, Said
from ufo.types import Prediction, Target

BOX = "12,30,10,20"
MASK = "<MASK>" * 4


def answers(texts, cut=(), classes=CLASSES):
    """Answers of one image, about points in a row."""
    points = torch.rand(len(texts), 2)
    counts = [text.count("<MASK>") for text in texts]
    return Answers(
        texts,
        torch.rand(len(texts)),
        points,
        (24, 24),
        classes,
        counts,
        retrieve_masks=lambda rows, *which: torch.ones(len(rows), 24, 24),
        cut=cut,
    )


def test_what_training_teaches_is_well_formed(task_name, make_model, make_batch, tokenizer):
    model, batch = make_model(), make_batch(task_name)
    task = model.task(task_name)
    asked = task.supervise(batch, model.grid(task, *batch.image_size))
    texts = [one if isinstance(one, str) else one[0][0] for one in asked.answers if one]
    read_back = tokenizer.decode(tokenizer.encode(texts))
    assert read_back
    for text in read_back:
        assert task.well_formed(Said(text, text.count("<MASK>"), cut=False), CLASSES), text


@pytest.mark.parametrize(
    ("name", "broken", "sound"),
    [
        ("detection", ["owl,1,2,3", "bird,1,2,3,4", "owl", "", "owl,a,b,c,d"], [f"owl,{BOX}", "background"]),
        (
            "instance_segmentation",
            ["owl,<MASK>", f"bird,{MASK}", f"owl,{MASK}<MASK>", ""],
            [f"owl,{MASK}", "background"],
        ),
        ("semantic_segmentation", ["owl", "background", ""], [f"red cat,{MASK}"]),
        ("grounding", ["the owl", "1,2,3", "", "background"], [BOX]),
        ("referring_segmentation", ["it is there", "<MASK>", "background"], [MASK, MASK + MASK]),
        ("caption", ["", "  "], ["an owl"]),
    ],
)
def test_what_cannot_be_read_is_counted_whatever_else_was_said(make_tiny_task, name, broken, sound):
    task = make_tiny_task(name)
    if name in DENSE:
        prediction = task.evaluated(answers([*broken, *sound, *broken]))
        assert (prediction.answers, prediction.broken) == (2 * len(broken) + len(sound), 2 * len(broken))
        return
    assert [task.evaluated(answers([text])).broken for text in broken] == [1] * len(broken)
    assert [task.evaluated(answers([text])).broken for text in sound] == [0] * len(sound)


def test_every_answer_that_becomes_an_object_is_well_formed(make_tiny_task):
    """And no other one is, but those that say that there is nothing."""
    texts = [f"owl,{BOX}", "owl,1,2", "background", f"dog,{BOX}", f"bird,{BOX}", f"RED CAT,{BOX},9"]
    task = make_tiny_task("detection", nms_min_score=0.0, nms_iou=1.0)
    rows = set(task.parse(answers(texts)).rows.tolist())
    formed = {i for i, one in enumerate(answers(texts).said) if task.well_formed(one, CLASSES)}
    assert rows == formed - {2} == {0, 3, 5}


def test_nothing_and_several_objects_are_answers_where_a_task_allows_them(make_tiny_task):
    task = make_tiny_task("grounding", nothing=True, max_objects=3, max_length=40)
    sound = ["background", f"{BOX};{BOX}", ";".join([BOX] * 5)]
    assert all(task.well_formed(Said(text, 0, False), CLASSES) for text in sound)
    assert not task.well_formed(Said(f"{BOX};1,2", 0, False), CLASSES)
    masks = make_tiny_task("referring_segmentation", nothing=True, max_objects=2)
    assert [masks.well_formed(Said("", n, False), CLASSES) for n in (0, 3, 4, 6, 8)] == [0, 0, 1, 0, 1]


def test_an_answer_that_the_length_ends_is_broken_where_its_form_does_not_tell(make_tiny_task):
    caption = make_tiny_task("caption").evaluated(answers(["an owl and a"], cut=[True]))
    assert (caption.answers, caption.broken) == (1, 1)
    box = make_tiny_task("detection").evaluated(answers([f"owl,{BOX}"], cut=[True]))
    assert box.broken == 0  # all of it is there


@pytest.mark.parametrize("name", ["detection", "instance_segmentation", "grounding"])
def test_a_grammar_leaves_no_broken_answer(name, make_model, make_batch):
    """A random model breaks nearly all of its answers otherwise."""
    model, batch = make_model(), make_batch(name)
    batch.targets = [Target(i, size) for i, size in enumerate(batch.sizes)]
    free = model.predict_batch(batch)
    assert all(found.broken > found.answers / 2 for found in free)
    model.task(name).constrained = True
    if name in DENSE:
        model.task(name).top_tokens = 3  # and rows that have nothing to say
    kept = model.predict_batch(batch)
    assert all(found.broken == 0 < found.answers for found in kept)
    assert not model.predict_batch(replace(batch, targets=[]))[0].answers  # a picture is not an evaluation


def test_max_length_tells_which_texts_were_cut(make_model, make_batch, tokenizer, monkeypatch):
    """An answer is whole if it has come to its end token, the last place included."""
    model, batch, end = make_model(), make_batch("caption", (1, 1, 1)), tokenizer.end_id
    _, owl, *_ = tokenizer.encode(["owl"])[0]
    ids = torch.tensor([[owl, owl, owl], [owl, owl, end], [owl, end, end]])
    decoded = Decoded(ids, torch.ones(3, 1), torch.zeros(3, 3, model.backbone.width))
    monkeypatch.setattr(ufo.model, "decode", lambda *_: decoded)
    with torch.no_grad():
        found = model.answer_batch(batch)
    assert [list(one.cut) for one in found] == [[True], [False], [False]]


def test_the_rate_is_of_all_answers_and_not_a_number_without_any():
    metric = FormatErrorRate()
    metric.update(0, 0)
    assert math.isnan(metric.compute()["format_error_rate"])
    metric.update(3, 64)
    metric.update(0, 16)
    assert float(metric.compute()["format_error_rate"]) == pytest.approx(3 / 80)


def test_it_stands_beside_the_metrics_of_every_task(make_batch):
    callbacks = build_callbacks(compose("mixture=digits", "callbacks=[metrics]"))
    (found,) = (one for one in callbacks if isinstance(one, FormatErrors))
    for task in task_names():
        assert found not in scoring(task, callbacks) and found in scoring(task, callbacks, beside=True)
    batch = make_batch("caption")
    batch.targets = [Target(i, size) for i, size in enumerate(batch.sizes)]
    found.collect([Prediction("caption", text="", answers=1, broken=i) for i in range(2)], batch)
    assert found.compute() == {"val/tiny/caption/format_error_rate": 0.5}
    assert not found.headlines and kind_of("caption")


def test_the_smallest_rate_is_the_best_one(tmp_path):
    best = BestMetrics(tmp_path)
    for step, value in enumerate((0.3, 0.1, 0.2)):
        best.update("val/a/format_error_rate", value, step, lower=True)
    assert best.metrics["val/a/format_error_rate"] == {"best": 0.1, "last": 0.2, "step": 1}


assert BINS >= 30  # the boxes above
