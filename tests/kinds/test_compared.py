"""What is found, missed and mistaken for what, in one image."""

from __future__ import annotations

import pytest
import torch
from metric_examples import CLASSES, example

from ufo.kinds.compared import DOUBLE, EXTRA, MISSED, NOTHING, POOR, WRONG, compare_objects
from ufo.tasks import kind_of, task_names
from ufo.types import IGNORE, Prediction, Target

OWL = [10.0, 10.0, 40.0, 40.0]  # x, y, width, height
TASKS = tuple(task_names())


def compared(found, truth, certain=0.3, crowds=None):
    """Of (box, score, name) and (box, name)."""
    return compare_objects(
        [box for box, *_ in found],
        [score for _, score, _ in found],
        [name for *_, name in found],
        [box for box, _ in truth],
        [name for _, name in truth],
        [box[2] * box[3] for box, _ in truth],
        crowds or [False] * len(truth),
        certain,
    )


@pytest.mark.parametrize(
    ("found", "faults"),
    [
        ([(OWL, 0.9, "owl")], []),
        ([], [(MISSED, "owl")]),
        ([(OWL, 0.1, "owl")], [(MISSED, "owl")]),  # nobody is shown it
        ([(OWL, 0.9, "owl"), ([12.0, 10, 40, 40], 0.8, "owl")], [(DOUBLE, "owl")]),
        ([(OWL, 0.9, "dog")], [(WRONG, "dog"), (MISSED, "owl")]),
        ([([30.0, 10, 40, 40], 0.9, "owl")], [(POOR, "owl"), (MISSED, "owl")]),
        ([(OWL, 0.9, "owl"), ([90.0, 90, 9, 9], 0.8, "dog")], [(EXTRA, "dog")]),
    ],
)
def test_what_is_wrong_has_a_name(found, faults):
    assert compared(found, [(OWL, "owl")]).faults == faults


def test_a_better_score_is_matched_first_and_each_object_once():
    found = [([14.0, 10, 40, 40], 0.9, "owl"), (OWL, 0.8, "owl")]
    result = compared(found, [(OWL, "owl")])
    assert result.said == [("owl", 0.9, True), ("owl", 0.8, False)]
    assert result.there == [("owl", "medium", True)]


def test_a_crowd_neither_counts_nor_costs():
    found = [(OWL, 0.9, "owl"), (OWL, 0.8, "owl")]
    result = compared(found, [(OWL, "owl")], crowds=[True])
    assert not result.said and not result.there and not result.faults


def test_pairs_say_what_an_object_was_taken_for():
    far = [70.0, 70.0, 20.0, 20.0]
    result = compared([(OWL, 0.9, "dog")], [(OWL, "owl"), (far, "cat")])
    assert result.pairs == [("owl", "dog", 1.0), ("cat", NOTHING, 1.0)]


def test_a_map_counts_its_pixels():
    truth = torch.tensor([[0, 0, 1, IGNORE], [0, 0, 1, IGNORE]], dtype=torch.uint8)
    said = torch.tensor([[0, 0, 0, 2], [0, 0, 0, 2]])
    target = Target(0, (2, 4), semantic=truth)
    prediction = Prediction("semantic_segmentation", semantic=said, classes=CLASSES)
    result = kind_of("semantic_segmentation").compare(prediction, target, CLASSES)
    assert sorted(result.pairs) == [("one", "zero", 2.0), ("zero", "zero", 4.0)]
    assert result.there == [("zero", "", True), ("one", "", False)]
    assert result.faults == [(MISSED, "one")]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("empty", [False, True])
def test_right_answers_have_no_faults_and_empty_ones_have_some(task, empty):
    prediction, target = example(task, 3, noise=0.0, empty=empty)
    result = kind_of(task).compare(prediction, target, CLASSES)
    assert bool(result.faults) == empty
    assert all(found != empty for *_, found in result.there) and result.there
