"""From two files to a result: read, join, score, resample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from ufo.data.errors import DataError
from ufo.kinds import Objects
from ufo.metrics.calibration import calibration, reliability
from ufo.score.bootstrap import Difference, Interval, compare, draw, intervals
from ufo.score.convention import Convention, doubt, read_of, read_scale
from ufo.score.joining import Joined, join
from ufo.score.predictions import Answer, is_coco_results, read_predictions
from ufo.score.predictions.answers import without_scores
from ufo.score.relation import pairs, recounted, unrelated
from ufo.score.tasks import Rules, Scorer, answer_key, make_scorer, reads
from ufo.score.tasks.base import Rows
from ufo.score.tasks.objects import ObjectScorer
from ufo.score.texts import FORMATS, TextFormat
from ufo.score.truth import Truth
from ufo.tasks import kind_of, task_class

NOTHING = 0.005
"""Of masks a headline metric below which they have next to nothing to do with the annotated ones."""


@dataclass(frozen=True)
class Declared:
    """What the user says of a prediction file; None: the format's own, or nothing said."""

    answers: str | None = None  # a name of `ufo.score.texts`
    boxes: str | None = None
    scale: str | None = None
    of: str = "original"
    min_score: float = 0.0


@dataclass(frozen=True)
class Resampling:
    """How intervals are made."""

    resamples: int = 1000
    seed: int = 0


@dataclass
class Result:
    """One prediction file's scores."""

    path: Path
    convention: Convention | None
    headline: str
    values: dict[str, float]
    intervals: dict[str, Interval]
    tables: dict[str, Rows]
    examples: int
    images: int
    missing: int
    problems: dict[str, int]  # what was wrong with predictions
    remarks: list[str]
    resampled: dict[str, Tensor] = field(repr=False, default_factory=dict)  # [R] each


def score(path: Path, truth: Truth, task: str, declared: Declared, resampling: Resampling) -> Result:
    """Score a prediction file. Raises DataError in one sentence."""
    texts = text_format(declared.answers, task)
    answers = read_predictions(path, texts, answer_key(task), whole=reads(task) == "records")
    if texts is None and reads(task) == "boxes":
        _refuse_words(answers)
    if reads(task) != "boxes":
        _refuse_boxes(declared, task)
    convention = convention_of(path, declared, texts) if reads(task) == "boxes" else None
    # no object is an answer of a detector; an expression, a picture or a map without one is not answered
    joined = join(truth, answers, path, none_is_valid=isinstance(kind_of(task), Objects))
    folder = path if path.is_dir() else path.parent
    rules = Rules(folder, kind_of(task), task_class(task).needs, convention, declared.min_score)
    scorer = make_scorer(task, truth, rules)
    if declared.min_score and not scorer.threshold:
        raise DataError(
            f"--min-score {declared.min_score:g} would leave nothing out: --task {task} with {truth.path} "
            "takes answers whatever they score; drop it."
        )
    for example, given in zip(truth.examples, joined.answers, strict=True):
        scorer.add(example, given)
    remarks = [*truth.remarks, *joined.remarks, *_below(answers, scorer), *_remarks(answers, scorer)]
    remarks += _overruled(declared, texts)
    if texts is not None and not any(answer.count for answer in answers):
        remarks += _other_format(path, texts)
    weights = draw(len(scorer.rows), resampling.resamples, resampling.seed)
    values = scorer.values()
    if warning := _warning(truth, joined, scorer, values[scorer.headline]):
        remarks.insert(0, f"warning: {warning}")
    resampled = scorer.resampled(weights) if resampling.resamples else {}
    tables = scorer.tables()
    sums = scorer.certainty()
    if sums is not None and sums.any() and _are_probabilities(answers, remarks):
        values |= {name: float(value) for name, value in calibration(sums.sum(0)).items()}
        if resampling.resamples:
            resampled |= calibration((weights @ sums.flatten(1)).unflatten(1, sums.shape[1:]))
        tables["score"] = reliability(sums.sum(0))
    return Result(
        path,
        convention,
        scorer.headline,
        values,
        intervals(values, resampled),
        tables,
        len(truth.examples),
        len(scorer.rows),
        len(joined.missing),
        {kind: number for kind, number in scorer.problems.items() if number},
        remarks,
        resampled,
    )


def differences(one: Result, other: Result) -> dict[str, Difference]:
    """How much `other` is better than `one`, for each metric that both have."""
    return {
        name: compare(value, other.values[name], one.resampled[name], other.resampled[name])
        for name, value in one.values.items()
        if name in other.values and name in one.resampled and name in other.resampled
    }


def text_format(name: str | None, task: str) -> TextFormat | None:
    """The format of answers in words, checked."""
    if name is None:
        return None
    if (read := reads(task)) != "boxes":
        raise DataError(f"--answers reads boxes from texts, and --task {task} is scored by {read}.")
    return FORMATS[name]


def convention_of(path: Path, declared: Declared, texts: TextFormat | None) -> Convention:
    """What the boxes of a file mean: as declared, else as its format says. Raises DataError."""
    order, scale = declared.boxes, declared.scale
    if texts is not None:
        order, scale = order or texts.order, scale or texts.scale
        if scale is None:
            raise DataError(
                f"models that answer as `{texts.name}` count in different units; say which: --scale "
                "pixels (with --of "
                "resized:HxW), 0-1000, 0-999, 0-1 or bins:N."
            )
    elif is_coco_results(path):
        order = order or "xywh"
    if order is None:
        raise DataError(
            f"{path} does not say what the numbers of a box are; say it: --boxes xyxy, xywh (as "
            "`ufo predict` writes them) or cxcywh."
        )
    found = Convention(order, read_scale(scale or "pixels"), read_of(declared.of))
    if found.of is not None and found.unit is not None:
        raise DataError(
            f"--of {declared.of} says whose pixels are counted, and --scale {found.scale} counts none; leave "
            "one of them out."
        )
    return found


def _refuse_boxes(declared: Declared, task: str) -> None:
    """Raises DataError for what is said of boxes where none are scored."""
    said = {"--boxes": declared.boxes, "--scale": declared.scale}
    if declared.of != Declared.of:
        said["--of"] = declared.of
    for option, value in said.items():
        if value is not None:
            raise DataError(
                f"{option} {value} is about boxes, and --task {task} is scored by {reads(task)}; drop it."
            )


def _overruled(declared: Declared, texts: TextFormat | None) -> list[str]:
    """What was declared of answers in words against what their format says: it counts, and is told."""
    if texts is None:
        return []
    pairs = (("--boxes", declared.boxes, texts.order), ("--scale", declared.scale, texts.scale))
    return [
        f"warning: {option} {said} counts, and not {own}, which `{texts.name}` says of itself"
        for option, said, own in pairs
        if said is not None and own is not None and said != own
    ]


def _refuse_words(answers: Sequence[Answer]) -> None:
    """Raises DataError for an answer in words of which nobody has said how they are to be read."""
    first = next((answer for answer in answers if answer.worded), None)
    if first is not None:
        raise DataError(
            f"{first.where} has no box, but an answer in words; say how its boxes are written: --answers "
            f"{', '.join(list(FORMATS)[:-1])} or {list(FORMATS)[-1]}."
        )


def _other_format(path: Path, declared: TextFormat) -> list[str]:
    """A warning that names the format in which answers hold objects, where they hold none as declared."""
    for name, other in FORMATS.items():
        if other is declared:
            continue
        answers = read_predictions(path, other)
        if found := sum(answer.count > 0 for answer in answers):
            return [
                f"warning: no answer holds a box as `{declared.name}` writes it, and {found} of "
                f"{len(answers)} do as `{name}` does: say --answers {name} if the model writes that"
            ]
    return []


def _are_probabilities(answers: Sequence[Answer], remarks: list[str]) -> bool:
    """Whether all scores lie between 0 and 1; if not, that is remarked."""
    outside = [s for a in answers for s in a.scores or [] if not 0 <= s <= 1]
    if outside:
        remarks.append(
            f"scores that are no probabilities: {len(outside)} (first: {outside[0]:g}); no ECE, no Brier"
        )
    return not outside


def _warning(truth: Truth, joined: Joined, scorer: Scorer, headline: float) -> str:
    """What is probably wrong with all of a file, where metrics only say that it is bad; empty: nothing."""
    if convention := scorer.rules.convention:
        said = doubt(convention, pairs(truth, joined)) or unrelated(convention, truth, joined)
        return said or (recounted(convention, truth, joined) if isinstance(scorer, ObjectScorer) else "")
    drawn = any(answer.masks for answers in joined.answers for answer in answers)
    if scorer.reads == "masks" and drawn and headline < NOTHING:
        return (
            f"hardly any mask overlaps with an annotated one ({scorer.headline} {headline:.3f}); check that "
            "the predictions name their images and classes as the annotations do"
        )
    return ""


def _below(answers: Sequence[Answer], scorer: Scorer) -> list[str]:
    """How many objects score too little to count; a warning if none is left."""
    if not scorer.below:
        return []
    number = sum(answer.count for answer in answers)
    warning = "warning: " if scorer.below == number else ""
    return [
        f"{warning}{scorer.below} of {number} objects score less than --min-score "
        f"{scorer.rules.min_score:g} and were left out"
    ]


def _remarks(answers: Sequence[Answer], scorer: Scorer) -> list[str]:
    found = []
    ranked = isinstance(scorer, ObjectScorer)
    if ranked and (number := without_scores(answers)):
        found.append(f"{number} objects state no score and count with 1, so that AP cannot rank them")
    if shared := sum(answer.shared for answer in answers):
        found.append(f"{shared} answers state one score, which counts for each of their several objects")
    unknown: Mapping[str, int] = getattr(scorer, "unknown", {})
    if unknown:
        names = ", ".join(f"{name} ({number})" for name, number in list(unknown.items())[:5])
        found.append(f"classes that the annotations do not have: {names}")
    first = next((a for a in answers if a.broken), None)
    if first is not None:
        found.append(f"first answer not in its format: {first.where}: {first.broken}")
    return found
