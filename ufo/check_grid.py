"""Images with more objects than a dense task has queries: each query answers for at most one (paper 3.3).

The rest is never matched in training and cannot be found in evaluation, whatever the model learns.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ufo.data.module import UFODataModule
from ufo.data.problems import DOUBTFUL
from ufo.model import UFO

CROWDED = "object for which the grid has no query left, so that it is never matched"


def check_grids(model: UFO, data: UFODataModule) -> None:
    """Count the objects that no query is left for among the problems of all data that a run has built."""
    for source in data.sources:
        for split in source.built:
            report_crowded(model, source.task, source.data(split))


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
