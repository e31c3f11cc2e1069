"""What tests of recorded predictions share: our prediction of one image against the recorded one."""

from __future__ import annotations

from typing import Any

import torch
from vit_recordings import close

from ufo.ops.masks import rle_encode
from ufo.types import Prediction


def check_prediction(task: str, ours: Prediction, expected: dict[str, Any]) -> None:
    """Ids, texts and pixels exactly, scores and boxes to 1e-4."""
    if task == "caption":
        assert ours.text == expected["pred_caption"]
    elif task == "grounding":
        close(ours.boxes, expected["pred_bboxes"])
    elif task == "semantic_segmentation":
        assert torch.equal(ours.semantic, expected["sem_seg"].to(ours.semantic))
    else:
        close(ours.scores, expected["scores"])
        assert torch.equal(ours.labels, expected["labels"])
        if task == "detection":
            close(ours.boxes, expected["bboxes"])
        else:
            check_masks(ours, expected["masks_rle"])


def check_masks(ours: Prediction, expected: list[dict[str, Any]]) -> None:
    """All pixels of all masks; the size is part of an RLE."""
    found = rle_encode(ours.masks)
    assert [tuple(r["size"]) for r in found] == [tuple(r["size"]) for r in expected]
    counts = [r["counts"] for r in expected]
    assert [r["counts"] for r in found] == [c.decode() if isinstance(c, bytes) else c for c in counts]
