"""An answer that has no room is told before training: decoding would leave off in the midst of it."""

from __future__ import annotations

import logging

import pytest
from test_check_grid import coco
from tiny_mllm import make_mllm

from ufo.check import check_fit, check_source
from ufo.check.answers import CUT, report_cut
from ufo.data.module import UFODataModule
from ufo.data.source import Source

LONG = "hippopotamus"  # spelled in letters, a token each


@pytest.mark.parametrize("max_length, cut", [(19, 1), (20, 0)])
def test_a_class_without_room_is_counted(tmp_path, make_model, caplog, max_length, cut):
    """Twelve letters, a comma, four numbers and three commas."""
    model = make_model()
    model.tasks["detection"].max_length = max_length
    source = Source("own/detection", "detection", train=lambda: coco(tmp_path, [2, 1]))
    data = UFODataModule([source])
    data.setup("fit")
    own = source.data("train")
    own.classes = ("owl", LONG)
    with caplog.at_level(logging.WARNING):
        check_fit(model, data)
    assert own.problems.doubtful.get(CUT, 0) == sum(CUT in line for line in caplog.messages) == cut
    if cut:
        said = f"'{LONG},10,10,10,10' takes 20 tokens and max_length is 19"
        assert own.problems.first[CUT] == f"{said}; set tasks.detection.max_length=20"


@pytest.mark.parametrize(
    "name, changes, length",
    [
        ("instance_segmentation", {}, 12 + 1 + 4),
        ("semantic_segmentation", {}, 12 + 1 + 4),
        ("grounding", {"max_objects": 2}, 2 * 7 + 1),
        ("referring_segmentation", {"max_objects": 2}, 2 * 4 + 1),
    ],
)
def test_just_enough_room_is_enough(tmp_path, make_model, make_tiny_task, name, changes, length):
    model, data = make_model(), coco(tmp_path, [1])
    data.classes = (LONG,)
    model.tasks[name] = task = make_tiny_task(name, max_length=60, **changes)
    for room, constrained, cut in ((length, False, 0), (length - 1, True, 0), (length - 1, False, 1)):
        task.max_length, task.constrained = room, constrained
        report_cut(model, name, data)
        assert data.problems.doubtful.get(CUT, 0) == cut


@pytest.mark.parametrize("name", ["caption", "vqa"])
def test_free_text_may_be_cut(tmp_path, make_model, name):
    model, data = make_model(), coco(tmp_path, [1])
    model.tasks[name].max_length = 1
    report_cut(model, name, data)
    assert CUT not in data.problems.doubtful


@pytest.mark.parametrize("family, keeps, nothing, fine", [
    ("llava", True, True, False), ("llava", True, False, True), ("llava", False, True, True),
    ("internvl", True, True, True),
])  # fmt: skip
def test_a_refusal_that_could_never_be_said_is_refused(family, keeps, nothing, fine):
    """A prompt's last blank was taught as a part of it, where LLaVA's prompts keep this blank."""
    model = make_mllm(family, tasks=("grounding",), compat={"blank_after_prompt": keeps})
    model.tasks["grounding"].nothing = nothing
    if fine:
        check_source(model, "own/grounding", "grounding", ())
        return
    with pytest.raises(ValueError, match=r"tasks\.grounding\.nothing=true.*blank_after_prompt=false"):
        check_source(model, "own/grounding", "grounding", ())
