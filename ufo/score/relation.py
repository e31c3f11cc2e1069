"""Whether predictions are about the images that they name: told, and scored as named all the same.

Boxes of a model that has learned anything lie nearer to the objects of their image than to those of another.
Classes do not count here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torchvision.ops import box_iou

from ufo.score.convention import AT_LEAST, FAR_BETTER, RIGHT, SAMPLE, Convention, Pair, fit
from ufo.score.joining import Joined
from ufo.score.truth import Truth

HARDLY = 0.05
"""A mean IoU below which boxes have next to nothing to do with the annotated ones."""
ENOUGH = 20  # images or expressions from which chance can be told from skill
CHANCE = 1.15  # times the mean IoU with objects of other images
PARTS = (2, 3, 5, 7)  # of the file that those are away


def pairs(truth: Truth, joined: Joined, shift: int = 0) -> list[Pair]:
    """Boxes as written beside annotated ones: of an image as many of the best as it has objects.

    With a `shift` they stand beside the annotations of the example so many places behind theirs.
    """
    found: list[Pair] = []
    number = len(truth.examples)
    for place, (example, answers) in enumerate(zip(truth.examples, joined.answers, strict=True)):
        other = truth.examples[(place + shift) % number]
        boxes = [box for answer in answers for box in answer.boxes]
        if not boxes or not other.boxes:
            continue
        scores = [s for a in answers for s in (a.scores or [1.0] * a.count)]
        best = np.argsort(-np.array(scores), kind="stable")[: len(other.boxes)]
        wanted = np.array(other.boxes, dtype=np.float64)
        wanted[:, 2:] += wanted[:, :2]
        found.append((np.array(boxes)[best], wanted, example.size))
    return found


def unrelated(convention: Convention, truth: Truth, joined: Joined) -> str:
    """A warning if boxes seem to be about other images than those they name; empty if they do not."""
    what = "expression" if truth.expressions else "image"
    own = _fit(convention, pairs(truth, joined))
    if own is None:
        return ""
    enough = len(truth.examples) >= ENOUGH
    for shift, where in ((1, "next"), (-1, "previous")) if enough else ():
        shifted = _fit(convention, pairs(truth, joined, shift)) or 0.0
        if shifted >= own + AT_LEAST and shifted >= own * FAR_BETTER:
            return (
                f"the boxes fit the annotations of the {where} {what} far better (mean IoU {shifted:.2f}) "
                f"than those of their own ({own:.2f}); they are scored as named: check that names are not "
                "shifted"
            )
    if own < HARDLY:
        return (
            f"hardly any box overlaps with an annotated one of its {what} (mean IoU {own:.2f}); check that "
            f"the predictions name their {what}s as the annotations do, and that these are the right ones"
        )
    if not enough:
        return ""
    others = [_fit(convention, pairs(truth, joined, len(truth.examples) // part)) or 0.0 for part in PARTS]
    other = sum(others) / len(others)
    if own < min(CHANCE * other, RIGHT):
        return (
            f"the boxes fit annotations of other {what}s as well (mean IoU {other:.2f}) as those of their "
            f"own ({own:.2f}); check that the predictions name their {what}s as the annotations do"
        )
    return ""


def recounted(convention: Convention, truth: Truth, joined: Joined) -> str:
    """A warning if classes seem to be counted from 0 or from 1 where they are ids; empty if they do not.

    Boxes that lie on an annotated one say which class they mean by where they are.
    """
    ids = {place: key for key, place in truth.categories.items()}
    said: list[tuple[int, int]] = []  # what a box is called, and the place of the class it lies on
    step = max(1, len(truth.examples) // SAMPLE)
    for example, answers in zip(truth.examples[::step], joined.answers[::step], strict=True):
        boxes = [box for answer in answers for box in answer.boxes]
        labels = [label for a in answers for label in (a.labels or [""] * a.count)]
        if not boxes or not example.boxes:
            continue
        wanted = torch.tensor(example.boxes, dtype=torch.float64)
        wanted[:, 2:] += wanted[:, :2]
        overlap = box_iou(torch.from_numpy(convention.xyxy(np.array(boxes), example.size)), wanted).max(1)
        for label, iou, place in zip(labels, overlap.values.tolist(), overlap.indices.tolist(), strict=True):
            if isinstance(label, int) and iou >= RIGHT:
                said.append((label, example.labels[place]))
    if len(said) < ENOUGH:
        return ""
    own = sum(ids.get(place) == label for label, place in said) / len(said)
    for first in (0, 1):
        shifted = sum(place + first == label for label, place in said) / len(said)
        if shifted >= own + AT_LEAST and shifted >= own * FAR_BETTER:
            return (
                f"of the boxes that lie on an annotated one {shifted:.0%} have its class if classes are "
                f"counted from {first} in the order of the annotations, and {own:.0%} as category ids; they "
                "are scored as ids: write the ids of the annotations"
            )
    return ""


def _fit(convention: Convention, beside: Sequence[Pair]) -> float | None:
    """The mean IoU of some of the pairs; None without any."""
    return fit(convention, beside[:: max(1, len(beside) // SAMPLE)]) if beside else None
