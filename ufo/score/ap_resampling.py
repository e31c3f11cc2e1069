"""COCO's AP of many resamples of the images, accumulated anew from the matches that COCOeval made once.

A resample that holds an image k times holds its detections k times, one behind the other, as their scores are
equal. So it is the list of all detections with a weight each: precision and recall at a detection are sums of
weights before it. Only the order of *different* detections with equal scores may differ from a run of
COCOeval.

Shapes: R resamples, n images, D detections of a class, P of them matched, T IoU thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from ufo.metrics.calibration import BINS, calibration_sums
from ufo.metrics.coco_ap import judged

AREAS = {"all": (0, 1e10), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}
"""COCO's ranges of areas in pixels, both ends included."""
CELLS = 20_000_000
"""Numbers of a table [R, D] that are held at a time."""


@dataclass
class Matches:
    """What COCOeval found for one class and one range of areas."""

    wanted: Tensor  # float64 [n], annotated objects that count
    image: Tensor  # int64 [D], best score first
    matched: np.ndarray  # bool [T, D]
    ignored: np.ndarray  # bool [T, D]


def resampled_ap(evaluator: COCOeval, weights: Tensor) -> dict[str, Tensor]:
    """mAP, mAP50, mAP75 and those of sizes for each resample, NaN where it holds no such object.

    Args:
        evaluator: after its work; its images are numbered from 0.
        weights: float64 `[R, n]`, how often a resample holds an image.

    Returns:
        float64 `[R]` each.
    """
    found: dict[str, list[Tensor]] = {area: [] for area in AREAS}
    for label in range(len(evaluator.params.catIds)):
        for number, area in enumerate(AREAS):
            matches = gather(evaluator, label, number)
            if matches is not None:
                found[area].append(_precision(matches, weights, evaluator.params.recThrs))
    thresholds = evaluator.params.iouThrs
    none = torch.full((1, len(weights), len(thresholds)), torch.nan, dtype=torch.float64)
    stacked = {area: torch.stack(parts) if parts else none for area, parts in found.items()}  # [K, R, T]

    def mean(values: Tensor) -> Tensor:
        return values.transpose(0, 1).flatten(1).nanmean(1)

    def at(threshold: float) -> Tensor:
        return stacked["all"][..., np.isclose(thresholds, threshold)]

    values = {"mAP": mean(stacked["all"]), "mAP50": mean(at(0.5)), "mAP75": mean(at(0.75))}
    return values | {f"mAP_{area}": mean(stacked[area]) for area in AREAS if area != "all"}


def class_ap(evaluator: COCOeval, classes: Sequence[str]) -> dict[str, dict[str, float]]:
    """AP and AP50 of each class, NaN where it has no object."""
    precision = evaluator.eval["precision"][:, :, :, 0, -1]  # [T, recalls, K]
    rows = {}
    for label, name in enumerate(classes):
        values = precision[:, :, label]
        missing = (values == -1).all()
        half = values[np.isclose(evaluator.params.iouThrs, 0.5)]
        rows[name] = {
            "mAP": float("nan") if missing else float(values.mean()),
            "mAP50": float("nan") if missing else float(half.mean()),
        }
    return rows


def certainty(evaluator: COCOeval) -> Tensor:
    """`calibration_sums` of each image, float64 `[n, BINS, 4]`: a detection is right if it is matched at IoU
    0.5.

    Detections that COCOeval ignores, as those of crowds, do not count.
    """
    found = torch.zeros(len(evaluator.params.imgIds), BINS, 4, dtype=torch.float64)
    owners, scores, right = judged(evaluator)
    for image in owners.unique().tolist():
        found[image] = calibration_sums(scores[owners == image], right[owners == image])
    return found


def gather(evaluator: COCOeval, label: int, area: int) -> Matches | None:
    """The matches of one class and range of areas; None where no object of it counts."""
    images, areas = len(evaluator.params.imgIds), len(evaluator.params.areaRng)
    first = (label * areas + area) * images
    limit = evaluator.params.maxDets[-1]
    results: list[dict[str, Any] | None] = evaluator.evalImgs[first : first + images]
    wanted = torch.zeros(images, dtype=torch.float64)
    scores, owners, matched, ignored = [np.zeros(0)], [np.zeros(0, np.int64)], [], []
    for image, result in enumerate(results):
        if result is None:
            continue
        wanted[image] = float((np.asarray(result["gtIgnore"]) == 0).sum())
        scores.append(np.asarray(result["dtScores"][:limit], dtype=np.float64))
        owners.append(np.full(len(scores[-1]), image, dtype=np.int64))
        matched.append(np.asarray(result["dtMatches"][:, :limit]) != 0)
        ignored.append(np.asarray(result["dtIgnore"][:, :limit]) != 0)
    if not wanted.any():
        return None
    order = np.argsort(-np.concatenate(scores), kind="mergesort")  # stable, as COCOeval's
    return Matches(
        wanted,
        torch.from_numpy(np.concatenate(owners)[order]),
        np.concatenate(matched, axis=1)[:, order],
        np.concatenate(ignored, axis=1)[:, order],
    )


def _precision(matches: Matches, weights: Tensor, recalls: np.ndarray) -> Tensor:
    """Mean precision over recalls at each threshold: float64 `[R, T]`, in pieces that memory holds."""
    piece = max(1, CELLS // max(1, len(matches.image)))
    parts = [_piece(matches, part, torch.from_numpy(recalls)) for part in weights.split(piece)]
    return torch.cat(parts)


def _piece(matches: Matches, weights: Tensor, recalls: Tensor) -> Tensor:
    total = weights @ matches.wanted  # [R]
    counted = weights[:, matches.image].cumsum(1)  # [R, D], all detections so far
    values = []
    for matched, ignored in zip(matches.matched, matches.ignored, strict=True):
        right, left_out = np.flatnonzero(matched & ~ignored), np.flatnonzero(ignored)
        if not len(right):
            values.append(torch.zeros_like(total))
            continue
        hits = weights[:, matches.image[right]].cumsum(1)  # [R, P]
        before = counted[:, right]
        if len(left_out):
            skipped = torch.nn.functional.pad(weights[:, matches.image[left_out]].cumsum(1), (1, 0))
            before = before - skipped[:, np.searchsorted(left_out, right)]
        precision = hits / (before + np.spacing(1))
        precision = precision.flip(1).cummax(1).values.flip(1)
        place = torch.searchsorted(
            (hits / total[:, None]).contiguous(), recalls.expand(len(hits), -1).contiguous()
        )
        precision = torch.nn.functional.pad(precision, (0, 1))  # 0 where a recall is not reached
        values.append(precision.gather(1, place).mean(1))
    found = torch.stack(values, dim=1)
    return torch.where(total[:, None] > 0, found, torch.nan)
