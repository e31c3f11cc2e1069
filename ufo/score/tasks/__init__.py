"""What is scored: one file per sort of answer. A scorer names a kind of result, so a new task has one."""

from __future__ import annotations

from ufo.data.errors import DataError
from ufo.kinds import Kind, Text
from ufo.score.tasks.base import Rules, Scorer
from ufo.score.tasks.class_maps import ClassMapScorer
from ufo.score.tasks.generalized import GeneralizedBoxScorer, GeneralizedMaskScorer
from ufo.score.tasks.objects import InstanceScorer, ObjectScorer
from ufo.score.tasks.records import RecordScorer
from ufo.score.tasks.referred import BoxScorer, MaskScorer, ReasoningScorer
from ufo.score.tasks.texts import TextScorer
from ufo.score.truth import Truth
from ufo.tasks import kind_of, task_class, task_names

__all__ = ["Rules", "Scorer", "answer_key", "make_scorer", "reads", "scored_tasks", "scorer_of"]

SCORERS: tuple[type[Scorer], ...] = (
    *(ObjectScorer, InstanceScorer, ClassMapScorer, BoxScorer, MaskScorer),
    *(ReasoningScorer, TextScorer),
)
GENERALIZED: dict[type[Scorer], type[Scorer]] = {
    BoxScorer: GeneralizedBoxScorer,
    MaskScorer: GeneralizedMaskScorer,
}
ANNOTATED = frozenset(["boxes", "labels", "masks", "semantic", "expression", "sentence"])
"""What the annotations that `ufo.score.truth` reads may say, of `ufo.types.ANNOTATIONS`."""


def scorer_of(task: str) -> type[Scorer] | None:
    """The scorer that names a task, else that of its kind; None: there is none."""
    kind = kind_of(task)
    if type(kind).reread is not Kind.reread:
        return RecordScorer
    named = [scorer for scorer in SCORERS if scorer.task == task]
    alike = [scorer for scorer in SCORERS if scorer.kind is not None and scorer.kind.is_like(kind)]
    return next(iter([*named, *alike]), None)


def scored_tasks() -> list[str]:
    """The tasks that can be scored from files: they have a scorer, and annotations that are read."""
    return [name for name in task_names() if scorer_of(name) and task_class(name).needs <= ANNOTATED]


def answer_key(task: str) -> str:
    """The field of a record that holds the text of a task that answers with one; "": it does not."""
    kind = kind_of(task)
    return (kind.key or task) if isinstance(kind, Text) else ""


def reads(task: str) -> str:
    """What a task's predictions are, of `Reads`. Raises DataError if it is not scored."""
    scorer = scorer_of(task)
    if scorer is None or task not in scored_tasks():
        raise DataError(
            f"--task {task} is not scored from files, as no annotations of it are read; choose one of: "
            f"{', '.join(scored_tasks())}."
        )
    return scorer.reads


def make_scorer(task: str, truth: Truth, rules: Rules) -> Scorer:
    """A new scorer of a task of `scored_tasks`. Raises DataError if the annotations lack what it needs."""
    scorer = scorer_of(task)
    assert scorer is not None
    maps = scorer.reads == "maps"
    if scorer.asks(rules.kind, rules.needs) != truth.expressions or maps != bool(truth.numbers):
        have = "expressions" if truth.expressions else "label maps" if truth.numbers else "objects"
        raise DataError(
            f"{truth.path} holds {have}, which --task {task} is not about; choose another task or file."
        )
    for what, has in (("masks", truth.masks), ("boxes", truth.boxes)):
        if what in (scorer.reads, *rules.needs) and not has and not maps:
            raise DataError(
                f"{truth.path} has no {what}, which --task {task} needs; choose another task or file."
            )
    if truth.generalized:
        scorer = GENERALIZED.get(scorer, scorer)
    return scorer(truth, rules)
