"""What a new task lacks is said when its class is made, or with its first batch: not after a training."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from ufo.head.teacher import say_cut
from ufo.kinds import Text
from ufo.ops.grid import query_grid
from ufo.tasks.base import Asked, Task

WHOLE: dict[str, Any] = {"name": "strange", "kind": Text(), "needs": frozenset({"boxes"})}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": None}, r"test_new_tasks\.Strange has no `kind`"),
        ({"kind": Text}, "has no `kind`"),  # the class in place of one of its objects
        ({"needs": None}, "has no `needs`"),
        ({"needs": frozenset({"box"})}, "some of: boxes, caption"),
        ({"kind": Text(asks=True)}, "set needs_text = True"),
    ],
)
def test_a_task_that_lacks_something_is_no_class(changes, said):
    with pytest.raises(TypeError, match=said):
        type("Strange", (Task,), {**WHOLE, **changes, "__module__": "test_new_tasks"})


def test_what_several_tasks_share_need_not_be_whole():
    assert type("Part", (Task,), {"kind": None})


@pytest.mark.parametrize(
    ("answers", "queries", "said"),
    [
        (["1"], None, "1 answers for 2 rows"),
        (["1", "2", "3"], None, "3 answers for 2 rows"),
        (["1", "2"], query_grid(1, 1, 2), "2 answers for 8 rows"),
        ([1, "2"], None, "the answer 1; an answer is a text: '1'"),
    ],
)
def test_answers_that_do_not_fit_the_rows_are_named(answers, queries, said):
    with pytest.raises(ValueError, match=said):
        Asked(["how many?"] * 2, queries, answers=answers)
    assert Asked(["how many?"] * 2, answers=[None, [("1", True)]]) and Asked(["how many?"])


def test_answers_that_are_learned_without_their_end_are_named(caplog, make_model):
    model = make_model()
    task = model.task("caption")
    most = task.max_length - 2
    with caplog.at_level(logging.WARNING):
        say_cut(model.backbone, model.tokenizer, task, Asked([""], answers=["a " * most]))
        assert not caplog.text
        say_cut(model.backbone, model.tokenizer, task, Asked(["", ""], answers=["a", "a " * (most + 1)]))
    assert f"tasks.caption.max_length={most + 2} tokens" in caplog.text
    assert f"has {most + 3}" in caplog.text
