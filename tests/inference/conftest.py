"""A tiny random model that finds something: its grammar leaves no other choice, and unlikely masks count."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="package")
def model(make_model):
    model = make_model(seed=2)
    for task in model.tasks.values():
        task.constrained = task.has_grammar
        for name, value in {"nms_filter": 0.0, "mask_threshold": 0.2}.items():
            if hasattr(task, name):
                setattr(task, name, value)
    return model
