"""`box=expected`: a box lies where its numbers are likely, near what the answer says."""

from __future__ import annotations

from dataclasses import MISSING, fields, replace
from types import SimpleNamespace

import pytest
import torch

from ufo.head.strategy import check_settings
from ufo.tasks import task_class, task_names
from ufo.tasks.detection import Detection
from ufo.tasks.grounding import Grounding

BOXED = ["detection", "grounding"]


@pytest.mark.parametrize("task", BOXED)
def test_expected_boxes_are_near_what_is_said_and_do_not_depend_on_the_batch(make_model, make_batch, task):
    model, batch = make_model(), make_batch(task)
    model.tasks[task].constrained = True  # well-formed answers
    bin_size = max(*batch.sizes[0]) / model.tasks[task].num_bins
    with torch.no_grad():
        said = model.predict_batch(batch)
        model.tasks[task].box = "expected"
        if task == "detection":  # which boxes are one object's is another question
            model.tasks[task].nms_iou = 1.1
        both = model.predict_batch(batch)
        for i, found in enumerate(both):
            one = replace(batch, images=batch.images[i : i + 1], sizes=batch.sizes[:1], texts=batch.texts[:1])
            (alone,) = model.predict_batch(one)
            assert torch.allclose(alone.boxes, found.boxes, atol=1e-3 * bin_size)
    moved = [torch.cdist(a.boxes, b.boxes, p=float("inf")).amin(0) for a, b in zip(both, said, strict=True)]
    assert torch.cat(moved).max() > 0.01 * bin_size, "none has moved"


def test_a_box_that_was_read_otherwise_stays_as_it_was_read():
    task = Detection(image_size=32, num_bins=8, box="expected")
    numbers = (
        torch.tensor([[[1, 2, 3, 4]], [[1, 2, 3, 5]]]),
        torch.tensor([[[1.2, 2, 3, 4]], [[1.4, 2, 3, 5]]]),
    )
    answers = SimpleNamespace(numbers=lambda: numbers)
    rows, first = torch.tensor([0, 1]), torch.tensor([0, 0])
    read = task.numbers_of(answers, rows, first, torch.tensor([[1, 2, 3, 4], [1, 2, 3, 4]]))
    assert read.flatten().tolist() == pytest.approx([1.2, 2, 3, 4, 1, 2, 3, 4])


def test_another_word_for_a_box_is_refused(make_model, make_batch):
    """Also one that is set on a model that is there."""
    said = r"task 'grounding': box=mean is none .* choose said or expected"
    with pytest.raises(ValueError, match=said):
        check_settings(Grounding(image_size=32, num_bins=8, box="mean"))
    model = make_model()
    model.tasks["grounding"].box = "mean"
    with torch.no_grad(), pytest.raises(ValueError, match=said):
        model.predict_batch(make_batch("grounding"))


@pytest.mark.parametrize("name", task_names())
def test_the_nearest_class_that_states_a_default_decides(name):
    task = task_class(name)
    for field in fields(task):
        states = (c for c in task.__mro__ if field.name in vars(c).get("__annotations__", {}))
        nearest = vars(next(states)).get(field.name, MISSING)
        assert field.default_factory is not MISSING or field.default is nearest or field.default == nearest
