"""`ufo data check`: reads a data set as training would and explains what is wrong in the user's terms."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from ufo.check import check_source
from ufo.check.answers import report_cut
from ufo.check.grid import report_crowded, report_unlisted
from ufo.check.texts import Limits, read_apart
from ufo.cli import CommandError
from ufo.cli.data_advice import advice
from ufo.cli.data_find import Found, find, quiet, tasks_for
from ufo.cli.data_folders import image_paths, missing_files, unused_files
from ufo.cli.data_list import paths
from ufo.cli.data_outline import described, outline
from ufo.cli.data_place import lost_at_import
from ufo.cli.data_samples import Seen, decode, map_warnings, text_warnings
from ufo.data.datasets.coco_file import LEAVING, short
from ufo.data.errors import DataError
from ufo.data.index import size_text
from ufo.data.problems import DOUBTFUL, EFFECTS, LEFT_OUT, NEGATIVE_SIZE
from ufo.errors import sentence
from ufo.model import UFO
from ufo.ops.nearest import few
from ufo.types import IGNORE

OVERLAP = "scores on images that were trained on say nothing of others"
MAX_NAMED = 10  # bad samples that are printed
MAX_CLASSES = 12  # lines of a histogram
BAD_SAMPLE = {
    True: "left out: others take their place",
    False: "scored as a black image: its objects are missed",
}
"""What training (True) and evaluation make of a sample whose picture cannot be read."""
UNUSABLE = (DataError, OSError, ValueError, TypeError, InstantiationException)


@dataclass
class Report:
    """What was found out about one split."""

    errors: list[str] = field(default_factory=list)  # what training, or its validation, refuses
    warnings: list[str] = field(default_factory=list)  # what is left out, changed, or probably not as meant
    facts: list[str] = field(default_factory=list)


def run(args: argparse.Namespace) -> int:
    """Check all splits; 1 if one has an error (with --strict also for a warning)."""
    count = _number(args.decode)
    found = find(args.name, args.root, args.overrides)
    print(found.name + (f": {found.info['title']}" if found.info.get("title") else ""))
    reports, datasets = {}, {}
    for split in found.splits:
        reports[split], datasets[split] = check_split(found, split, count)
    whole = Report()
    model = _model(found, [data for data in datasets.values() if data is not None], whole)
    if model is not None:
        whole.facts.append(described(model, args.overrides))
        for split, data in datasets.items():
            if data is not None:
                _check_model(found, model, data[0], data[1], reports[split])
    for split, data in datasets.items():
        if data is not None:
            reports[split].warnings += _problems(*data)
    whole.warnings += _folders(datasets)
    if getattr(args, "imports", True):
        files = [path for split in found.splits.values() for path in paths(split).values()]
        whole.facts += lost_at_import(files)
    _report_shared(datasets, whole)
    for title, report in {**reports, "all": whole}.items():
        _print(title, report)
    every = [*reports.values(), whole]
    errors, warnings = (sum(len(getattr(r, name)) for r in every) for name in ("errors", "warnings"))
    print(f"\n{_verdict(errors, warnings)}")
    return int(bool(errors or (args.strict and warnings)))


def check_split(found: Found, split: str, count: int | None) -> tuple[Report, tuple[Any, Seen] | None]:
    """Read one split and decode `count` samples spread over it (None: all); with what was read, if it was."""
    report = Report()
    report.facts += [f"{key}: {_describe(path)}" for key, path in paths(found.splits[split]).items()]
    with quiet():
        try:
            data = found.build(split)
            _serve(found, split, data)
        except UNUSABLE as error:
            report.errors.append(_hint(sentence(error), found))
            return report, None
        served = tasks_for(data.provides)
        report.facts.append(f"serves: {', '.join(served) or 'no task'}")
        if not len(data):
            report.errors.append("there is no sample: " + _why_empty(data))
        seen = decode(data, count)
        _check_task(found, data, split, report)
    _report_samples(data, seen, report)
    _histogram(data, seen, report)
    _unused_classes(data, seen, report)
    if "semantic" in data.provides:
        report.warnings += map_warnings(data, seen)
    return report, (data, seen)


def _serve(found: Found, split: str, data: Any) -> None:
    """Let the data set know for which task it is read: what that does not need cannot be wrong."""
    if found.source is None or "task" not in found.source or not hasattr(data, "serve"):
        return
    from ufo.tasks import task_class

    needs = task_class(found.source.task).needs  # a task that is not there is said before what refers to it
    transform = found.source.get("transform") or {}
    pastes = split == "train" and hasattr(instantiate(transform.get("train")), "bind")
    data.serve(needs, pasting=pastes)


def _problems(data: Any, seen: Seen) -> Iterator[str]:
    """What the data set itself has left out or doubts, and what is odd in samples of any format."""
    problems, train = data.problems, getattr(data, "train", False)
    for counts, effect in ((problems.left_out, EFFECTS[LEFT_OUT]), (problems.doubtful, EFFECTS[DOUBTFUL])):
        for kind, number in counts.most_common():
            first = problems.first.get(kind, "")
            place = f" (first: {first})" if first else ""
            scored = not train and effect == EFFECTS[DOUBTFUL]
            yield f"{number:,}x {kind}, {effect}{place}{advice(kind, scored)}"
    for kind, places, told in (
        (LEAVING, seen.leaving, (LEAVING, "box outside its image")),
        (NEGATIVE_SIZE, seen.inverted, ("negative size", "box outside its image")),
        ("empty sentence", seen.wordless, ("empty sentence",)),
    ):
        if places and not any(known in found for known in told for found in problems.counts):
            yield f"{len(places):,}x {kind} (first: {places[0]}){advice(kind, not train)}"


def _report_samples(data: Any, seen: Seen, report: Report) -> None:
    """How many samples there are, how many of the decoded ones cannot be used, and how large they are."""
    train, total, failed = getattr(data, "train", False), len(data), len(seen.failed) + len(seen.refused)
    if seen.refused:
        report.errors.append(_named(f"{len(seen.refused):,}x sample at which evaluation stops", seen.refused))
    effect = BAD_SAMPLE[train]
    if train and seen.failed and not seen.sides:
        what = f"none of the {failed:,} decoded samples can be used, and training stops after some in a row"
        report.errors.append(_named(what, seen.failed))
    elif seen.failed:
        report.warnings.append(
            _named(f"{len(seen.failed):,}x sample that cannot be decoded, {effect}", seen.failed)
        )
    if (missing := missing_files(data)) and len(missing) > failed:
        what = f"{len(missing):,}x record without its image file, {effect} (first: {missing[0]})"
        report.warnings.append(what)
    text = f"{total:,} samples, {len(data.classes)} classes" if data.classes else f"{total:,} samples"
    report.facts.append(text)
    if fine := len(seen.sides):
        heights, widths = np.array(seen.sides).T
        report.facts.append(f"decoded {fine + failed:,}: {fine:,} fine, {failed:,} not")
        report.facts.append(
            f"images {widths.min()}-{widths.max()} x {heights.min()}-{heights.max()} pixels (width x height)"
            + (f", {seen.objects / fine:.1f} objects each" if seen.objects else "")
        )
    elif failed:
        report.facts.append(f"decoded {failed:,}: none fine")


def _named(what: str, places: Sequence[str]) -> str:
    """A line about some samples, and a line for each of the first of them."""
    more = [f"and {len(places) - MAX_NAMED:,} more"] * (len(places) > MAX_NAMED)
    return "\n    ".join([f"{what}:", *places[:MAX_NAMED], *more])


def _counts(data: Any, seen: Seen) -> tuple[Counter[int], str]:
    """Objects or pixels by class, and what was counted; of all annotations if that needs no decoding."""
    if hasattr(data, "label_sets"):
        return Counter(np.asarray(data.label_sets()[1]).tolist()), "objects"
    counts = Counter({k: n for k, n in seen.labels.items() if k != IGNORE})
    return (
        counts,
        "share of the decoded pixels" if "semantic" in data.provides else "objects in the decoded samples",
    )


def _histogram(data: Any, seen: Seen, report: Report) -> None:
    """The most and least frequent classes of what is trained on or scored."""
    counts, unit = _counts(data, seen)
    if not data.classes or not counts:
        return
    total = sum(counts.values())
    lines = [
        f"  {' '.join(data.classes[k].split())[:32]:<32} "
        + (f"{n / total:.1%}" if "share" in unit else f"{n:,}")
        for k, n in counts.most_common(MAX_CLASSES)
        if 0 <= k < len(data.classes)
    ]
    rest = len(counts) - len(lines)
    more = [f"  and {rest} more classes"] if rest > 0 else []
    report.facts.append("\n    ".join([f"labels ({unit}):", *lines, *more]))


def _unused_classes(data: Any, seen: Seen, report: Report) -> None:
    """Classes that nothing teaches, or that nothing tests."""
    if not data.classes or not len(data) or not seen.sides or not data.provides & {"labels", "semantic"}:
        return
    counts, _ = _counts(data, seen)
    known = hasattr(data, "label_sets") or seen.whole
    thing = "pixel" if "semantic" in data.provides else "object"
    if not counts and known:
        use = "train on" if getattr(data, "train", False) else "score"
        report.errors.append(f"no {thing} is left to {use}; the warnings say why")
        return
    if without := [name for k, name in enumerate(data.classes) if not counts[k]]:
        names = few(list(map(short, without)), 5)
        noun = "class" if len(without) == 1 else "classes"
        line = f"{len(without)} {noun} without any {thing}: {names}"
        # a rare class need not be in a part of the data
        report.warnings.append(line) if known else report.facts.append(line + " (of what was decoded)")


def _check_task(found: Found, data: Any, split: str, report: Report) -> None:
    """A source's task must be one that the data serve."""
    if found.source is None or "task" not in found.source:
        return
    from ufo.tasks import task_class

    try:
        missing = task_class(found.source.task).needs - data.provides
    except ValueError as error:
        report.errors.append(str(error))
        return
    if missing:
        report.errors.append(
            f"the source's task '{found.source.task}' needs {', '.join(sorted(missing))}, which the {split} "
            f"data do not have; they have {', '.join(sorted(data.provides)) or 'nothing'}"
        )


def _tasks(found: Found, data: Any) -> list[str]:
    """The tasks to train the data for: the source's, else those of the mixture that they serve."""
    if found.source is not None and "task" in found.source:
        return [found.source.task] if found.source.task in tasks_for(data.provides) else []
    known = {name for name, task in found.cfg.tasks.items() if task}
    return [name for name in tasks_for(data.provides) if name in known]


def _model(found: Found, datasets: Sequence[tuple[Any, Seen]], whole: Report) -> UFO | None:
    """The model that would be trained; None, and a warning, if it cannot be known here."""
    tasks = sorted({task for data, _ in datasets for task in _tasks(found, data)})
    if not tasks:
        return None
    try:
        with quiet():
            return outline(found, tasks)
    except (CommandError, *UNUSABLE) as error:
        whole.warnings.append(
            f"what the model can read and write is not checked: {sentence(error)} (backbone= takes another)"
        )
        return None


def _check_model(found: Found, model: UFO, data: Any, seen: Seen, report: Report) -> None:
    """What training would refuse or cut because of the model."""
    for task in _tasks(found, data):
        try:
            check_source(model, found.name, task, data.classes)
        except ValueError as error:
            report.errors.append(str(error))
            continue
        report.warnings += text_warnings(model, task, seen)
        report.warnings += filter(None, [read_apart(model.task(task), data.classes)])
        report_crowded(model, task, data)
        report_cut(model, task, data)
        try:
            report_unlisted(model, task, data, found.name)
        except ValueError as error:
            report.errors.append(str(error))
        Limits(model, model.task(task), data.classes).report(data, train=getattr(data, "train", False))


def _folders(datasets: dict[str, tuple[Any, Seen] | None]) -> list[str]:
    """Files that no split uses; nothing if a split could not be read, since it may use them."""
    if not datasets or None in datasets.values():
        return []
    built = [entry[0] for entry in datasets.values() if entry is not None]
    return [f"{line} in {folder}" for folder, line in unused_files(built)]


def _report_shared(datasets: dict[str, tuple[Any, Seen] | None], report: Report) -> None:
    """Images of two splits: a slip, or meant, if there are no others."""
    built = {split: image_paths(entry[0]) for split, entry in datasets.items() if entry is not None}
    for one, other in combinations(built, 2):
        shared = built[one] & built[other]
        if shared and built[one] == built[other]:
            report.facts.append(f"{one} and {other} are the same {len(shared):,} image files: {OVERLAP}")
        elif shared:
            line = f"{len(shared):,}x image file that is in {one} and in {other} (first: {min(shared)})"
            report.warnings.append(f"{line}: {OVERLAP}")


def _describe(path: Path) -> str:
    if not path.exists():
        return f"{path} (missing)"
    if path.is_file():
        return f"{path} ({size_text(path.stat().st_size)})"
    with os.scandir(path) as entries:
        names = [entry.name for entry in entries]
    return f"{path} (folder, {len(names):,} entries)"


def _why_empty(data: Any) -> str:
    if data.problems.counts:
        return "everything is left out, the warnings say why"
    return "no image of the file has an annotation of the classes" if data.classes else "the file lists none"


def _hint(message: str, found: Found) -> str:
    """An error with where the data can be had, if it is that the files are not there."""
    if "does not exist" in message and found.info.get("url"):
        account = " (needs an account)" if found.info.get("account") else ""
        message += f" The data come from {found.info['url']}{account}."
    return message


def _print(split: str, report: Report) -> None:
    if not (report.facts or report.warnings or report.errors):
        return
    print(f"\n{split}")
    for kind, lines in (("", report.facts), ("warning: ", report.warnings), ("ERROR: ", report.errors)):
        for line in lines:
            print(f"  {kind}{line}")


def _verdict(errors: int, warnings: int) -> str:
    counted = f"{warnings} warning{'s' * (warnings != 1)}"
    if errors:
        return f"not usable as it is: {errors} error{'s' * (errors != 1)}, {counted}"
    return f"usable, with {counted}" if warnings else "usable, nothing is wrong"


def _number(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdigit():
        raise CommandError(f"--decode takes a number or `all`, not '{text}'")
    return int(text)
