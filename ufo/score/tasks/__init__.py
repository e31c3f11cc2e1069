"""What is scored: one file per sort of answer."""

from __future__ import annotations

from ufo.data.errors import DataError
from ufo.score.tasks.base import Rules, Scorer
from ufo.score.tasks.class_maps import ClassMapScorer
from ufo.score.tasks.generalized import GeneralizedBoxScorer, GeneralizedMaskScorer
from ufo.score.tasks.objects import InstanceScorer, ObjectScorer
from ufo.score.tasks.referred import BoxScorer, MaskScorer, ReasoningScorer
from ufo.score.truth import Truth

__all__ = ["TASKS", "Rules", "Scorer", "make_scorer"]

TASKS: dict[str, type[Scorer]] = {
    "detection": ObjectScorer,
    "instance_segmentation": InstanceScorer,
    "semantic_segmentation": ClassMapScorer,
    "grounding": BoxScorer,
    "referring_segmentation": MaskScorer,
    "reasoning_segmentation": ReasoningScorer,
}
"""The scorer of each task, whose names are those of `ufo.tasks`."""
GENERALIZED: dict[type[Scorer], type[Scorer]] = {
    BoxScorer: GeneralizedBoxScorer,
    MaskScorer: GeneralizedMaskScorer,
}
EXPRESSIONS = (BoxScorer, MaskScorer, ReasoningScorer)
BOXES = (ObjectScorer, BoxScorer)


def make_scorer(task: str, truth: Truth, rules: Rules) -> Scorer:
    """A new scorer. Raises DataError if the annotations do not hold what the task needs."""
    scorer = TASKS[task]
    if issubclass(scorer, EXPRESSIONS) != truth.expressions:
        have = "expressions" if truth.expressions else "label maps" if truth.numbers else "objects"
        raise DataError(
            f"{truth.path} holds {have}, which --task {task} is not about; choose another task or file."
        )
    if issubclass(scorer, ClassMapScorer) != bool(truth.numbers):
        have = "label maps" if truth.numbers else "objects"
        raise DataError(
            f"{truth.path} holds {have}, which --task {task} is not about; choose another task or file."
        )
    if not needs_boxes(task) and not truth.masks and not truth.numbers:
        raise DataError(f"{truth.path} has no masks, which --task {task} needs; choose another task or file.")
    if needs_boxes(task) and not truth.boxes:
        raise DataError(f"{truth.path} has no boxes, which --task {task} needs; choose another task or file.")
    if truth.generalized:
        scorer = GENERALIZED.get(scorer, scorer)
    return scorer(truth, rules)


def needs_boxes(task: str) -> bool:
    """Whether predictions are boxes."""
    return TASKS[task] in BOXES
