"""Answers as `supervision.Detections`, for its annotators, trackers and zones.

Shapes: `N` objects, `H W` pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ufo.inference.results import Result


def detections(result: Result) -> Any:
    """The objects of an answer: `xyxy [N, 4]`, `mask [N, H, W]`, `confidence [N]`, `class_id [N]`, and names.

    What has no class number gets 0, what has no score 1. Raises ImportError without the library.
    """
    try:
        import supervision
    except ModuleNotFoundError as error:
        if error.name != "supervision":  # what it needs itself, whose name the error says
            raise
        raise ImportError("to_supervision needs the library supervision: pip install supervision") from error
    found = list(result)
    if not found:
        return supervision.Detections.empty()
    masks = [thing.mask for thing in found]
    return supervision.Detections(
        xyxy=np.array([thing.box for thing in found], np.float32),
        mask=None if None in masks else np.stack([m.bool().cpu().numpy() for m in masks if m is not None]),
        confidence=np.array([1.0 if t.score is None else t.score for t in found], np.float32),
        class_id=np.array([t.label or 0 for t in found], int),
        data={"class_name": np.array([thing.name for thing in found])},
    )
