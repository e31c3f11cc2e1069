"""All runs of a sweep in one table and a plot per swept parameter, from what the runs left in their folders.

Needs no logger and no account; works while a sweep is running. Everything is written into one folder of the
sweep's, `report/`.
"""

from __future__ import annotations

import csv
import html
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ufo.sweeps import record

METRICS = "metrics.json"  # of ufo.callbacks.best.BestMetrics
SWEEP = "multirun.yaml"  # the config of a whole sweep, in its folder
INSIDE = "report"  # folder of what is written
TABLE, MARKDOWN = "report.csv", "report.md"
STOPPED = "stopped"  # says "running", but its process is gone


@dataclass
class Run:
    """One run of a sweep."""

    name: str  # its folder, below the sweep's
    state: str
    why: str = ""
    overrides: dict[str, str] = field(default_factory=dict)
    objective: float | None = None
    minutes: float | None = None
    best: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    headlines: set[str] = field(default_factory=set)  # those metrics that are their metric's headline

    @property
    def failed(self) -> bool:
        return self.state in (record.FAILED, STOPPED, record.INTERRUPTED)


def check_sweep(folder: Path) -> None:
    """Raises ValueError for a folder that is no sweep; it names those that are near."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give that of a sweep, runs/<name>_sweep")
    if (folder / SWEEP).is_file():
        return
    below = sorted(path.parent for path in folder.glob(f"*/{SWEEP}"))
    above = next((path for path in folder.resolve().parents if (path / SWEEP).is_file()), None)
    near = [str(path) for path in below[:5]] or [str(above or "runs/<name>_sweep")]
    what = "a run and no sweep" if (folder / record.FILE).is_file() else f"no sweep, it has no {SWEEP}"
    raise ValueError(f"{folder} is {what}; give the folder of one: {', '.join(near)}")


def gather(folder: Path) -> list[Run]:
    """Every run at or below `folder`, in the order of their numbers or names."""
    found = [path.parent for path in folder.rglob(record.FILE)]
    return [_read(path, folder) for path in sorted(found, key=lambda p: _natural(p.relative_to(folder)))]


def _natural(path: Path) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in path.parts]


def _read(path: Path, folder: Path) -> Run:
    known = record.read(path) or record.Record(state=record.FAILED, why=f"{record.FILE} can't be read")
    state, why = known.state, known.why
    if state == record.RUNNING and not record.is_alive(known):
        state, why = STOPPED, "its process is gone without a word (killed?)"
    metrics = record.read_json(path / METRICS)
    metrics = metrics if isinstance(metrics, dict) else {}
    return Run(
        name=path.relative_to(folder).as_posix(),
        state=state,
        why=why,
        overrides=dict(o.lstrip("+").partition("=")[::2] for o in known.overrides),
        objective=known.objective,
        minutes=_minutes(known),
        best=_numbers(metrics, "best"),
        last=_numbers(metrics, "last"),
        headlines={n for n, values in metrics.items() if isinstance(values, dict) and values.get("headline")},
    )


def _numbers(metrics: dict[str, Any], key: str) -> dict[str, float]:
    """One number of every metric that has it."""
    found = {n: record.number(values.get(key)) for n, values in metrics.items() if isinstance(values, dict)}
    return {name: value for name, value in found.items() if value is not None}


def _minutes(known: record.Record) -> float | None:
    try:
        end = datetime.fromisoformat(known.ended) if known.ended else datetime.now(timezone.utc)
        return (end - datetime.fromisoformat(known.started)).total_seconds() / 60
    except (ValueError, TypeError, OverflowError):
        return None


def swept(runs: Sequence[Run]) -> list[str]:
    """The keys whose values differ between runs."""
    keys = dict.fromkeys(key for run in runs for key in run.overrides)
    return [key for key in keys if len({run.overrides.get(key) for run in runs}) > 1]


def headlines(runs: Sequence[Run]) -> list[str]:
    """The metrics that tell runs apart at a glance; all of them where no run says which."""
    return sorted({name for run in runs for name in run.headlines}) or every_metric(runs)


def every_metric(runs: Sequence[Run]) -> list[str]:
    """All metrics that any run has."""
    return sorted({name for run in runs for name in run.best})


def rows(runs: Sequence[Run], metrics: Sequence[str] | None = None) -> tuple[list[str], list[list[str]]]:
    """Head and cells of the table: what was swept, how it ended, the best values of `metrics`."""
    keys, metrics = swept(runs), headlines(runs) if metrics is None else metrics
    head = ["run", *keys, "state", "minutes", "objective", *metrics, "why"]
    cells = [
        [
            run.name,
            *(run.overrides.get(key, "") for key in keys),
            run.state,
            _number(run.minutes, ".1f"),
            _number(run.objective),
            *(_number(run.best.get(name)) for name in metrics),
            run.why,
        ]
        for run in runs
    ]
    return head, cells


def _number(value: float | None, how: str = ".4f") -> str:
    return "" if value is None else format(value, how)


def write(runs: Sequence[Run], folder: Path) -> list[Path]:
    """`report.csv` with all metrics; `report.md` and, with matplotlib, plots of the headlines. The files.

    They are in `report/` of the sweep's folder; plots of an earlier report that are no more go.
    """
    title, folder = markdown(folder.resolve().name), folder / INSIDE
    folder.mkdir(exist_ok=True)
    for old in folder.glob("report_*.png"):
        old.unlink()
    with open(folder / TABLE, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        head, cells = rows(runs, every_metric(runs))
        csv.writer(file).writerows([head, *cells])
    head, cells = rows(runs)
    escaped = [[markdown(cell) for cell in row] for row in [head, *cells]]
    lines = [f"| {' | '.join(row)} |" for row in (escaped[0], ["---"] * len(head), *escaped[1:])]
    said = markdown(counts(runs))
    text = f"# {title}\n\n{said}\n\n" + "\n".join(lines) + "\n"
    (folder / MARKDOWN).write_text(text, encoding="utf-8")
    return [folder / TABLE, folder / MARKDOWN, *plots(runs, folder)]


def markdown(text: str) -> str:
    """Text of a run as Markdown shows it: no table, link, picture or HTML begins in it."""
    text = html.escape(one_line(text), quote=False)
    return re.sub(r"([\\`*\[\]|!~$])", r"\\\1", text)


def one_line(text: str) -> str:
    """Text without line ends and without what steers a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def counts(runs: Iterable[Run]) -> str:
    """ "3 finished, 1 failed"."""
    states = [run.state for run in runs]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)) or "no runs"


def summary(runs: Sequence[Run], folder: Path) -> str:
    """What is printed when a sweep ends: the counts, each failed run with its reason, where the table is."""
    failed = [one_line(f"  {run.name}: {run.state}, {run.why}") for run in runs if run.failed]
    return "\n".join([f"{folder}: {counts(runs)}", *failed, f"table: {folder / INSIDE / MARKDOWN}"])


def plots(runs: Sequence[Run], folder: Path) -> list[Path]:
    """A picture per swept parameter: the best value of every headline against the parameter's values."""
    try:
        from matplotlib.figure import Figure  # without pyplot: no display, no global state
    except ImportError:
        return []
    files = []
    for key in swept(runs):
        metrics = [metric for metric in headlines(runs) if _points(key, metric, runs)]
        if not metrics:
            continue  # an empty plot would say that there is something
        columns = min(len(metrics), 3)
        lines = -(-len(metrics) // columns)
        figure = Figure((4.2 * columns, 3.2 * lines), layout="constrained")
        every = list(figure.subplots(lines, columns, squeeze=False).flat)
        for axes, metric in zip(every, metrics, strict=False):
            _plot(axes, key, metric, _points(key, metric, runs))
        for axes in every[len(metrics) :]:
            axes.remove()
        figure.suptitle(one_line(key).replace("$", r"\$")[:60])
        files.append(folder / f"report_{re.sub(r'[^0-9A-Za-z_.+-]', '_', key)[:100]}.png")
        figure.savefig(files[-1], dpi=100)
    return files


def _points(key: str, metric: str, runs: Sequence[Run]) -> list[tuple[str, float, str]]:
    """The parameter's value, the metric's and the state of each run that has both."""
    return [
        (one_line(run.overrides[key]).replace("$", r"\$")[:60], run.best[metric], run.state)
        for run in runs
        if key in run.overrides and math.isfinite(run.best.get(metric, math.nan))
    ]


def _plot(axes, key: str, metric: str, points: Sequence[tuple[str, float, str]]) -> None:
    """One dot per run, a line through the means; values that are no numbers stand side by side."""
    names = list(dict.fromkeys(value for value, *_ in points))
    try:
        places = {name: float(name) for name in names}
        if not all(map(math.isfinite, places.values())):
            raise ValueError
    except ValueError:
        places = {name: float(i) for i, name in enumerate(names)}
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    else:
        positive = sorted(places.values())
        if positive and positive[0] > 0 and positive[-1] >= 50 * positive[0]:
            axes.set_xscale("log")
    for finished, color in ((True, "C0"), (False, "C3")):
        chosen = [p for p in points if (p[2] == record.FINISHED) == finished]
        axes.scatter([places[p[0]] for p in chosen], [p[1] for p in chosen], s=18, color=color, zorder=3)
    means = sorted(
        (place, sum(values) / len(values))
        for name, place in places.items()
        if (values := [p[1] for p in points if p[0] == name and p[2] == record.FINISHED])
    )
    axes.plot(*zip(*means, strict=True), color="C0", alpha=0.5) if means else None
    axes.set_title(one_line(metric.removeprefix("val/")).replace("$", r"\$")[:60], fontsize=9)
    axes.grid(alpha=0.3)
