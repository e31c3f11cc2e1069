"""The project's Weights & Biases workspace as code: which panel shows which logged value.

The keys are those that modules and callbacks log (docs/dashboards.md); a test looks each of them up in the
records of an offline run. `sources` are those of a mixture, `{"<data set>/<task>": task}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ufo.metrics.base import MetricCallback, scoring
from ufo.tasks import kind_of

SPEED = {
    "images per second": "speed/images_per_s",
    "tokens per second": "speed/tokens_per_s",
    "waiting for data, share": "speed/data_wait",
    "waiting for data, seconds per batch": "speed/wait_s",
    "memory, GB": "speed/memory_gb",
    "TFLOP per second": "speed/tflops",
}
UTILISATION = {"model FLOP utilisation": "speed/mfu"}  # only where the device's peak is known
STEP = "trainer/global_step"


@dataclass
class Panel:
    """One panel: lines over steps, pictures, or a table."""

    title: str
    keys: list[str]
    kind: str = "lines"  # or "pictures", "table"
    regex: str | None = None  # lines of all keys that match, instead of `keys`


@dataclass
class Section:
    """A row of panels under one heading."""

    name: str
    panels: list[Panel] = field(default_factory=list)


def sections(sources: Mapping[str, str], metrics: Sequence[MetricCallback]) -> list[Section]:
    """All panels for the sources of a mixture, `{name: task}`."""
    return [
        Section("validation", _numbers(sources, metrics)),
        Section("losses", _losses(sources)),
        Section(
            "optimisation",
            [
                Panel("learning rates", [], regex="lr-.*"),
                Panel("gradient norm", ["train/grad_norm"]),
            ],
        ),
        Section("speed", [Panel(title, [key]) for title, key in {**SPEED, **UTILISATION}.items()]),
        Section("pictures", _pictures(sources)),
        Section(
            "worst predictions",
            [Panel(name, [f"val/{name}/worst"], "table") for name in sources],
        ),
    ]


def _numbers(sources: Mapping[str, str], metrics: Sequence[MetricCallback]) -> list[Panel]:
    """What each metric shows of each source that it scores, its headline first."""
    return [
        Panel(f"{name} {number}", [f"val/{name}/{number}"])
        for name, task in sources.items()
        for metric in scoring(task, metrics, beside=True)
        for number in metric.numbers
    ]


def _losses(sources: Mapping[str, str]) -> list[Panel]:
    masked = [name for name, task in sources.items() if kind_of(task).masks]
    panels = [
        Panel("loss", [f"train/{name}/loss" for name in sources]),
        Panel("token loss", [f"train/{name}/token" for name in sources]),
    ]
    if masked:
        panels += [
            Panel(f"{part} loss", [f"train/{name}/{part}" for name in masked]) for part in ("focal", "dice")
        ]
    return panels


def _pictures(sources: Mapping[str, str]) -> list[Panel]:
    pictures = [Panel(name, [f"val/{name}/pictures"], "pictures") for name in sources]
    tables = [(name, f"val/{name}/answers") for name, task in sources.items() if kind_of(task).columns]
    return pictures + [Panel(name, [key], "table") for name, key in tables]


def keys(parts: list[Section]) -> list[str]:
    """Every key that a panel shows."""
    return [key for section in parts for panel in section.panels for key in panel.keys]


def workspace(
    entity: str, project: str, name: str, sources: Mapping[str, str], metrics: Sequence[MetricCallback]
) -> Any:
    """A `wandb_workspaces` workspace; it touches no network until it is saved."""
    import wandb_workspaces.reports.v2 as reports
    import wandb_workspaces.workspaces as ws

    def panel(one: Panel) -> Any:
        if one.kind == "pictures":
            return reports.MediaBrowser(title=one.title, media_keys=one.keys, num_columns=2)
        if one.kind == "table":
            return reports.WeavePanelSummaryTable(table_name=one.keys[0])
        return reports.LinePlot(title=one.title, x=STEP, y=list[Any](one.keys), metric_regex=one.regex)

    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[
            ws.Section(name=part.name, panels=[panel(one) for one in part.panels], is_open=i < 2)
            for i, part in enumerate(sections(sources, metrics))
        ],
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=20),
        runset_settings=ws.RunsetSettings(groupby=[ws.Metric("Group"), ws.Metric("JobType")]),
    )


def as_json(built: Any) -> str:
    """What W&B stores of a workspace."""
    return built._to_model().model_dump_json(by_alias=True, exclude_none=True, indent=2)
