"""A result as one table: Markdown for people, JSON for programs, a run of Weights & Biases."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ufo.score.bootstrap import Difference
from ufo.score.evaluate import Result

LISTED = 20  # rows of a class table in Markdown; JSON has all


def markdown(
    result: Result, task: str, against: str, other: Result | None, diff: dict[str, Difference]
) -> str:
    """The tables and what was odd, as a document."""
    head = ["metric", result.path.name, "95 % interval"]
    rows = [[name, _number(value), _interval(result, name)] for name, value in result.values.items()]
    if other is not None:
        head += [other.path.name, "95 % interval", "difference", "95 % interval", "p"]
        for row in rows:
            row += _compared(row[0], other, diff)
    parts = [f"# {task}: {result.path} against {against}", _summary(result), table(head, rows)]
    for named in (result, other):
        if named is not None:
            parts += _notes(named)
    for name, columns in result.tables.items():
        keys = list(next(iter(columns.values())))
        lines = [[row, *(_cell(key, values[key]) for key in keys)] for row, values in columns.items()]
        parts.append(table([name, *keys], lines[:LISTED]))
        if len(lines) > LISTED:
            parts.append(f"{len(lines) - LISTED} more rows are in the JSON (`--json`).")
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown, with columns that line up for a reader of the text."""
    cells = [list(head), *map(list, rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
    rule = "|" + "|".join("-" * (width + 1) + (":" if i else "-") for i, width in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def as_json(
    result: Result, task: str, against: str, other: Result | None, diff: dict[str, Difference]
) -> dict[str, Any]:
    """Everything in full precision; what is not defined is null."""
    content = {"task": task, "against": against, **_of_result(result)}
    if other is not None:
        content["versus"] = _of_result(other)
        content["differences"] = {
            name: {
                "value": _plain(found.value),
                "low": _plain(found.interval.low),
                "high": _plain(found.interval.high),
                "p": _plain(found.p),
            }
            for name, found in diff.items()
        }
    return content


def log_to_wandb(result: Result, task: str, project: str) -> None:
    """One run with the metrics as its summary and the tables as tables."""
    import wandb

    with wandb.init(project=project, job_type="score", name=f"{task}: {result.path.name}") as run:
        for name, value in result.values.items():
            if not math.isnan(value):
                run.summary[name] = value
        head: list[str | int] = ["metric", "value", "low", "high"]
        rows = [
            [name, value, *((i.low, i.high) if (i := result.intervals.get(name)) else (None, None))]
            for name, value in result.values.items()
        ]
        run.log({"metrics": wandb.Table(columns=head, data=rows)})
        for name, columns in result.tables.items():
            keys = list(next(iter(columns.values())))
            head = [name, *keys]
            data = [[row, *(values[key] for key in keys)] for row, values in columns.items()]
            run.log({name: wandb.Table(columns=head, data=data)})


def _summary(result: Result) -> str:
    what = f"{result.examples} expressions about" if result.examples != result.images else ""
    boxes = f"; boxes: {result.convention}" if result.convention is not None else ""
    return f"{what} {result.images} images{boxes}.".strip()


def _notes(result: Result) -> list[str]:
    """What was wrong with the predictions, as a list."""
    lines = [f"* {number} x {kind}" for kind, number in result.problems.items()]
    lines += [f"* {remark}" for remark in result.remarks]
    return [f"{result.path.name}:\n\n" + "\n".join(lines)] if lines else []


def _compared(name: str, other: Result, diff: dict[str, Difference]) -> list[str]:
    found = diff.get(name)
    value = other.values.get(name, math.nan)
    if found is None:
        return [_number(value), _interval(other, name), "-", "-", "-"]
    low, high = found.interval.low, found.interval.high
    return [
        _number(value),
        _interval(other, name),
        f"{found.value:+.4f}" if not math.isnan(found.value) else "-",
        "-" if math.isnan(low) else f"{low:+.4f} to {high:+.4f}",
        "-" if math.isnan(found.p) else f"{found.p:.3f}",
    ]


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def _cell(key: str, value: float) -> str:
    return f"{value:.0f}" if key == "number" else _number(value)


def _interval(result: Result, name: str) -> str:
    found = result.intervals.get(name)
    if found is None or math.isnan(found.low):
        return "-"
    return f"{found.low:.4f} to {found.high:.4f}"


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value


def _of_result(result: Result) -> dict[str, Any]:
    metrics: dict[str, Any] = {}
    for name, value in result.values.items():
        found = result.intervals.get(name)
        metrics[name] = {"value": _plain(value)}
        if found is not None:
            metrics[name] |= {"low": _plain(found.low), "high": _plain(found.high)}
    return {
        "predictions": str(result.path),
        "boxes": None if result.convention is None else str(result.convention),
        "headline": result.headline,
        "examples": result.examples,
        "images": result.images,
        "missing": result.missing,
        "metrics": metrics,
        "tables": {
            name: {row: {k: _plain(v) for k, v in values.items()} for row, values in rows.items()}
            for name, rows in result.tables.items()
        },
        "problems": result.problems,
        "remarks": result.remarks,
    }
