"""`ufo data check`: reads a data set as training would and explains what is wrong in the user's terms."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from hydra.errors import InstantiationException
from rich.console import Console
from rich.progress import track

from ufo.cli import CommandError
from ufo.cli.data_advice import advice
from ufo.cli.data_find import Found, find, quiet, tasks_for
from ufo.cli.data_list import paths
from ufo.data.errors import DataError
from ufo.data.index import size_text
from ufo.errors import sentence
from ufo.types import IGNORE

MAX_NAMED = 10  # errors that are printed
MAX_CLASSES = 12  # lines of a histogram


@dataclass
class Report:
    """What was found out about one split."""

    errors: list[str] = field(default_factory=list)  # it, or some sample, cannot be used
    warnings: list[str] = field(default_factory=list)  # annotations that are left out or changed
    facts: list[str] = field(default_factory=list)


def run(args: argparse.Namespace) -> int:
    """Check all splits; 1 if one has an error (with --strict also for a warning)."""
    count = _number(args.decode)
    found = find(args.name, args.root, args.overrides)
    print(found.name + (f": {found.info['title']}" if found.info.get("title") else ""))
    reports = {}
    for split in found.splits:
        reports[split] = check_split(found, split, count)
        _print(split, reports[split])
    errors = sum(len(report.errors) for report in reports.values())
    warnings = sum(len(report.warnings) for report in reports.values())
    print(f"\n{_verdict(errors, warnings)}")
    return int(bool(errors or (args.strict and warnings)))


def check_split(found: Found, split: str, count: int | None) -> Report:
    """Read one split and decode `count` samples spread over it (None: all)."""
    report = Report()
    report.facts += [f"{key}: {_describe(path)}" for key, path in paths(found.splits[split]).items()]
    with quiet():
        try:
            data = found.build(split)
        except (DataError, OSError, ValueError, InstantiationException) as error:
            report.errors.append(_hint(sentence(error), found))
            return report
        served = tasks_for(data.provides)
        report.facts.append(f"serves: {', '.join(served) or 'no task'}")
        if not len(data):
            report.errors.append("there is no sample: " + _why_empty(data))
        seen = _decode(data, count, report)
        _check_task(found, data, split, report)
    _histogram(data, seen, report)
    if split == "train":
        _unused_classes(data, report)
    for kind, number in data.problems.counts.most_common():
        first = data.problems.first.get(kind, "")
        report.warnings.append(f"{number:,}x {kind}" + (f" (first: {first})" if first else "") + advice(kind))
    return report


def _decode(data: Any, count: int | None, report: Report) -> Counter[int]:
    """Decode samples, note what fails; the labels seen, by number of objects (pixels of class maps)."""
    total = len(data)
    places = np.linspace(0, total - 1, min(total, count or total)) if total else np.zeros(0)
    chosen = np.unique(places.astype(int))
    labels: Counter[int] = Counter()
    objects, sides, failed = 0, [], 0
    for i in track(chosen, "decoding", transient=True, console=Console(stderr=True)):
        try:
            target, sample = data.target(int(i)), data[int(i)]
        except DataError as error:
            failed += 1
            if failed <= MAX_NAMED:
                report.errors.append(f"sample {i}: {error}")
            continue
        sides.append(sample["image"].shape[-2:])
        if target.labels is not None:
            labels.update(target.labels.tolist())
        if target.semantic is not None:
            values, pixels = target.semantic.unique(return_counts=True)
            labels.update(dict(zip(values.tolist(), pixels.tolist(), strict=True)))
        objects += len(target.boxes) if target.boxes is not None else 0
    if failed > MAX_NAMED:
        report.errors.append(f"and {failed - MAX_NAMED} more samples that cannot be decoded")
    text = f"{total:,} samples, {len(data.classes)} classes" if data.classes else f"{total:,} samples"
    report.facts.append(text)
    if len(chosen):
        report.facts.append(f"decoded {len(chosen):,}: {len(chosen) - failed:,} fine, {failed:,} not")
    if sides:
        heights, widths = np.array(sides).T
        report.facts.append(
            f"images {widths.min()}-{widths.max()} x {heights.min()}-{heights.max()} pixels (width x height)"
            + (f", {objects / len(sides):.1f} objects each" if objects else "")
        )
    return labels


def _histogram(data: Any, seen: Counter[int], report: Report) -> None:
    """The most and least frequent classes; of all annotations if the data set knows them without decoding."""
    counts, unit = seen, "objects in the decoded samples"
    if hasattr(data, "label_sets"):
        counts, unit = Counter(np.asarray(data.label_sets()[1]).tolist()), "objects"
    elif "semantic" in data.provides:
        unit = "of the decoded pixels"
        total = max(sum(n for k, n in seen.items() if k != IGNORE), 1)
        counts = Counter({k: n / total for k, n in seen.items() if k != IGNORE})
    if not data.classes or not counts:
        return
    lines = [
        f"  {data.classes[k][:32]:<32} {n:,}"
        if unit != "of the decoded pixels"
        else f"  {data.classes[k][:32]:<32} {n:.1%}"
        for k, n in counts.most_common(MAX_CLASSES)
        if 0 <= k < len(data.classes)
    ]
    rest = len(counts) - len(lines)
    more = [f"  and {rest} more classes"] if rest > 0 else []
    report.facts.append("\n    ".join([f"labels ({unit}):", *lines, *more]))


def _unused_classes(data: Any, report: Report) -> None:
    if not hasattr(data, "label_sets"):
        return
    counts = np.bincount(np.asarray(data.label_sets()[1], dtype=np.int64), minlength=len(data.classes))
    if len(data) and not counts.any():
        report.errors.append("no object is left to train on; the warnings say why")
        return
    if without := [name for name, n in zip(data.classes, counts.tolist(), strict=True) if not n]:
        names = ", ".join(without[:5]) + (f" and {len(without) - 5} more" if len(without) > 5 else "")
        report.warnings.append(f"{len(without)} classes without any object: {names}")


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


def _describe(path: Path) -> str:
    if not path.exists():
        return f"{path} (missing)"
    if path.is_file():
        return f"{path} ({size_text(path.stat().st_size)})"
    with os.scandir(path) as entries:
        names = [entry.name for entry in entries]
    return f"{path} (folder, {len(names):,} entries)"


def _why_empty(data: Any) -> str:
    if getattr(data, "train", False) and data.problems.counts:
        return "every image lost its annotations for the reasons below, or is too small"
    return "no image of the file has an annotation of the classes" if data.classes else "the file lists none"


def _hint(message: str, found: Found) -> str:
    """An error with where the data can be had, if it is that the files are not there."""
    if "does not exist" in message and found.info.get("url"):
        account = " (needs an account)" if found.info.get("account") else ""
        message += f" The data come from {found.info['url']}{account}."
    return message


def _print(split: str, report: Report) -> None:
    print(f"\n{split}")
    for kind, lines in (("", report.facts), ("warning: ", report.warnings), ("ERROR: ", report.errors)):
        for line in lines:
            print(f"  {kind}{line}")


def _verdict(errors: int, warnings: int) -> str:
    if errors:
        return f"not usable as it is: {errors} errors, {warnings} warnings"
    return f"usable, with {warnings} warnings" if warnings else "usable, nothing is wrong"


def _number(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdigit():
        raise CommandError(f"--decode takes a number or `all`, not '{text}'")
    return int(text)
