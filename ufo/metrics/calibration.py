"""Whether scores are probabilities: expected calibration error, Brier score, the points of a reliability
diagram.

Predictions are put into `BINS` equal bins by their score. Of each bin four numbers sum up over images: how
many, their scores, how many are right, their squared errors.
"""

from __future__ import annotations

import torch
from torch import Tensor

BINS = 15


def calibration_sums(scores: Tensor, right: Tensor) -> Tensor:
    """What sums up over predictions: float64 `[BINS, 4]`.

    Args:
        scores: float `[N]` in 0..1.
        right: bool `[N]`, whether each prediction is.
    """
    scores, hits = scores.double(), right.double()
    rows = torch.stack([torch.ones_like(scores), scores, hits, (scores - hits) ** 2], dim=1)
    place = (scores * BINS).long().clamp(0, BINS - 1)
    return torch.zeros(BINS, 4, dtype=torch.float64).index_add_(0, place, rows)


def calibration(sums: Tensor) -> dict[str, Tensor]:
    """ECE and Brier score of summed `calibration_sums` `[..., BINS, 4]`: float64 `[...]` each, NaN without
    any.

        ECE = sum_b |scores_b - right_b| / N,   Brier = mean of (score - right)^2

    ECE is torchmetrics' `binary_calibration_error` with the l1 norm (a test compares them), from sums.
    """
    count, score, right, error = sums.unbind(-1)
    total = count.sum(-1)
    return {"ECE": (score - right).abs().sum(-1) / total, "Brier": error.sum(-1) / total}


def reliability(sums: Tensor) -> dict[str, dict[str, float]]:
    """The bins of summed `calibration_sums` `[BINS, 4]` that hold any: how many, mean score, share right."""
    rows = {}
    for number, (count, score, right, _) in enumerate(sums.tolist()):
        if count:
            name = f"{number / BINS:.2f} to {(number + 1) / BINS:.2f}"
            rows[name] = {"number": count, "mean score": score / count, "right": right / count}
    return rows
