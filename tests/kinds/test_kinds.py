"""What every kind of result promises, for every task; and that nobody asks for a task by its name."""

from __future__ import annotations

import ast
import json

import pytest
import torch
from commands import ROOT
from metric_examples import CLASSES, example

from ufo.draw import draw, side_by_side
from ufo.kinds import ClassMap, ImageInfo, Kind, Objects, Referred, Text
from ufo.tasks import kind_of, task_class, task_names
from ufo.types import ANNOTATIONS, Prediction, Target

every_task = pytest.mark.parametrize("task", task_names())
H, W = 48, 64
IMAGE = ImageInfo(3, "3.jpg", (H, W))
PIXELS = torch.full((3, H, W), 99, dtype=torch.uint8)


def answered(task: str, empty: bool = False) -> tuple[Kind, Prediction, Target]:
    """The kind of a task, and a prediction as its `parse` would give it."""
    kind = kind_of(task)
    prediction, target = example(task, 5, noise=0.0, empty=empty)
    if isinstance(kind, (Objects, Referred)) and prediction.boxes is None:
        prediction.boxes = torch.zeros(len(prediction.masks), 4)
    if isinstance(kind, Referred):
        prediction.scores, target.text = torch.tensor([0.75]), "the thing"
        prediction.boxes = torch.zeros(1, 4) if empty else prediction.boxes
    return kind, prediction, target


@every_task
@pytest.mark.parametrize("empty", [False, True])
def test_records_are_json_and_name_their_image(task, empty):
    kind, prediction, _ = answered(task, empty)
    records = json.loads(json.dumps(kind.records(prediction, IMAGE, (H, W), "what?")))
    assert all((r["image_id"], r["file_name"]) == (3, "3.jpg") for r in records)
    assert records or (empty and isinstance(kind, Objects))
    if isinstance(kind, Text):
        assert records[0][kind.key or task] == prediction.text
        assert ("question" in records[0]) == kind.asks


@every_task
@pytest.mark.parametrize("empty", [False, True])
def test_a_summary_is_one_line(task, empty):
    kind, prediction, target = answered(task, empty)
    for text in (kind.summary(prediction, 0.3, "what?"), *kind.in_words(prediction, target, CLASSES)[1:]):
        assert text and "\n" not in text


@every_task
def test_a_table_has_a_value_for_each_column(task):
    kind, prediction, target = answered(task)
    assert len(kind.row(prediction, target)) == len(kind.columns)


@every_task
@pytest.mark.parametrize("empty", [False, True])
def test_a_picture_shows_answer_and_truth(task, empty):
    kind, prediction, target = answered(task, empty)
    picture = draw(PIXELS, prediction, classes=CLASSES)
    both = side_by_side(PIXELS, prediction, target, CLASSES)
    assert both.width > picture.width
    if isinstance(kind, Text) and not empty:
        other = Prediction(task, text=prediction.text + " and more")
        assert draw(PIXELS, other).tobytes() != picture.tobytes()


@every_task
def test_overlays_are_in_the_image_and_have_both_sides(task):
    kind, prediction, target = answered(task)
    layers = kind.overlays(prediction, target, CLASSES, (H, W))
    assert ("masks" in layers) == kind.masks and set(layers) <= {"boxes", "masks"}
    assert bool(layers) == (not isinstance(kind, Text))
    for layer in layers.get("masks", {}).values():
        assert layer["mask_data"].shape == (H, W)


@every_task
def test_a_trivial_answer_can_be_scored(task):
    from ufo.kinds import Usual

    kind, _, target = answered(task)
    usual = Usual(torch.tensor([[0.25, 0.25, 0.75, 0.75]]), 1, "often")
    answer = Prediction(task, classes=CLASSES, **kind.trivial(usual, (H, W)))
    assert 0 <= kind.score(answer, target, CLASSES) < 1


@every_task
def test_the_most_certain_objects_are_kept(task):
    kind, prediction, _ = answered(task)
    few = kind.best(prediction, 1)
    if isinstance(kind, Objects):
        assert len(few.scores) == len(few.labels) == 1
    else:
        assert few is prediction


def test_there_are_four_kinds():
    assert {type(kind_of(task)) for task in task_names()} <= {Objects, ClassMap, Referred, Text}


def test_texts_that_would_be_right_follow_from_the_task():
    target = Target(0, (H, W), captions=["a", "b", "a"], answers=["c"], boxes=torch.zeros(3, 4))
    assert Text().truth(target) == ["a", "b"] and Text(asks=True).truth(target) == ["c"]
    assert Text(truth_of=lambda t: [str(len(t.boxes))]).truth(target) == ["3"]
    assert Text().score(Prediction("caption", text="x"), Target(0, (H, W)), ()) is None


def test_an_answer_to_a_question_is_tabled_scored_and_overlaid():
    """The task vqa had fallen out of some of the lists by name that there once were."""
    kind, target = kind_of("vqa"), Target(0, (H, W), text="how many?", answers=["three", "3"])
    right, wrong = (Prediction("vqa", text=text) for text in ("3", "blue"))
    assert kind.columns == ("question", "answer", "right")
    assert kind.row(right, target) == ["how many?", "3", "three\n3"]
    assert kind.score(right, target, ()) == 1 and kind.score(wrong, target, ()) == 0
    assert kind.in_words(wrong, target, ()) == ("blue", "how many?: three / 3")
    assert kind.records(right, IMAGE, (H, W), "how many?") == [
        {"image_id": 3, "file_name": "3.jpg", "question": "how many?", "answer": "3"}
    ]


def test_no_module_but_the_tasks_knows_tasks_by_name():
    """Some names of tasks are also names of annotations (`caption`); those may be written."""
    names = {name for name in task_names() if name not in ANNOTATIONS}
    # a metric of one task names it; what a label tool exports becomes sources of tasks
    allowed = {"ufo/metrics/caption.py", "ufo/metrics/reasoning.py", "ufo/data/labels/sources.py"}
    allowed |= {"ufo/score/tasks/referred.py"}  # and so does a scorer
    found = []
    for file in sorted((ROOT / "ufo").rglob("*.py")):
        path = file.relative_to(ROOT).as_posix()
        if path.startswith("ufo/tasks/") or path in allowed:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and node.value in names:
                found.append(f"{path}:{node.lineno} {node.value}")
            if isinstance(node, ast.Compare) and any(
                isinstance(part, ast.Attribute) and part.attr == "task" for part in ast.walk(node)
            ):
                constants = [part for part in ast.walk(node) if isinstance(part, ast.Constant)]
                found += [f"{path}:{part.lineno} {part.value}" for part in constants if part.value != ""]
    assert not found


def test_published_classes_are_files_of_the_vocabularies():
    named = [task_class(name).published_classes for name in task_names()]
    assert any(named)
    assert all((ROOT / "conf" / "vocab" / name).is_file() for name in named if name)
