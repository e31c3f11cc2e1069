"""More objects than an answer can hold: a query answers for at most one (paper 3.3), an expression for some.

The rest is never matched in training and cannot be found in evaluation, whatever the model learns. And fewer:
an expression that means nothing, for a task that always answers with an object.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ufo.data.module import UFODataModule
from ufo.data.problems import DOUBTFUL
from ufo.model import UFO
from ufo.tasks.expression import Expressions

CROWDED = "object for which the grid has no query left, so that it is never matched"
UNLISTED = "object that an expression means beyond those that an answer lists (max_objects)"


def check_grids(model: UFO, data: UFODataModule) -> None:
    """Count the objects that no answer is left for among the problems of all data that a run has built.

    Raises ValueError where an expression means nothing, and the task cannot say so.
    """
    for source in data.sources:
        for split in source.built:
            report_crowded(model, source.task, source.data(split))
            report_unlisted(model, source.task, source.data(split), source.name)


def report_crowded(model: UFO, task: str, data: Any) -> None:
    """Count the objects of a data set that no query is left for; nothing is decoded."""
    chosen = model.task(task)
    grid = model.grid(chosen, chosen.image_size, chosen.image_size)
    if grid is None or not hasattr(data, "label_sets"):
        return
    queries = grid.references.shape[1]
    objects = np.diff(data.label_sets()[0])
    crowded = np.flatnonzero(objects > queries)
    if len(crowded):
        where = f"sample {crowded[0]} has {objects[crowded[0]]} objects and the grid {queries} queries"
        if len(crowded) > 1:
            where += f", {len(crowded)} images are so"
        lost = int((objects[crowded] - queries).sum())
        data.problems.report(CROWDED, where, effect=DOUBTFUL, number=lost)


def report_unlisted(model: UFO, task: str, data: Any, source: str) -> None:
    """Count the objects of expressions that mean more of them than an answer lists; nothing is decoded.

    Raises ValueError where expressions mean nothing, and the task always answers with an object.
    """
    chosen = model.task(task)
    if not isinstance(chosen, Expressions) or not hasattr(data, "objects"):
        return
    objects = data.objects()
    absent = np.flatnonzero(objects == 0)
    if len(absent) and not chosen.nothing:
        raise ValueError(
            f"{source}: {len(absent)} of {len(objects)} expressions mean nothing in their image, such as "
            f"{data.said(int(absent[0]))[0]!r}, and the task '{task}' always answers with an object; set "
            f"tasks.{task}.nothing=true"
        )
    many = np.flatnonzero(objects > chosen.max_objects)
    if len(many) and "masks" not in chosen.needs:  # masks of several objects are joined
        where = f"sample {many[0]} means {objects[many[0]]} objects and an answer lists {chosen.max_objects}"
        lost = int((objects[many] - chosen.max_objects).sum())
        data.problems.report(UNLISTED, where, effect=DOUBTFUL, number=lost)
