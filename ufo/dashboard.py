"""The project's Weights & Biases workspace as code: which panel shows which logged value.

The keys are those that modules and callbacks log (docs/dashboards.md); a test looks each of them up in the
records of an offline run. `sources` are the names of a mixture's sources, "<data set>/<task>".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

METRICS = {
    "detection": ("mAP", "mAP50", "mAP75"),
    "instance_segmentation": ("mAP", "mAP50", "mAP75"),
    "semantic_segmentation": ("mIoU", "mAcc"),
    "caption": ("BLEU-4", "CIDEr", "ROUGE-L"),
    "grounding": ("Acc@0.5", "mean_IoU"),
    "referring_segmentation": ("cIoU", "gIoU"),
    "reasoning_segmentation": ("gIoU", "cIoU"),
}
MASKED = (
    "instance_segmentation",
    "semantic_segmentation",
    "referring_segmentation",
    "reasoning_segmentation",
)
TABLED = ("caption", "grounding")  # tasks whose pictures come with a table of answers
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


def sections(sources: Mapping[str, str]) -> list[Section]:
    """All panels for the sources of a mixture, `{name: task}`."""
    return [
        Section("validation", [panel for name, task in sources.items() for panel in _metrics(name, task)]),
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
            [
                Panel(name, [f"val/{name}/worst"], "table")
                for name, task in sources.items()
                if task in METRICS
            ],
        ),
    ]


def _metrics(name: str, task: str) -> list[Panel]:
    return [Panel(f"{name} {metric}", [f"val/{name}/{metric}"]) for metric in METRICS.get(task, ())]


def _losses(sources: Mapping[str, str]) -> list[Panel]:
    masked = [name for name, task in sources.items() if task in MASKED]
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
    tables = [(name, f"val/{name}/answers") for name, task in sources.items() if task in TABLED]
    return pictures + [Panel(name, [key], "table") for name, key in tables]


def keys(parts: list[Section]) -> list[str]:
    """Every key that a panel shows."""
    return [key for section in parts for panel in section.panels for key in panel.keys]


def workspace(entity: str, project: str, name: str, sources: Mapping[str, str]) -> Any:
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
            for i, part in enumerate(sections(sources))
        ],
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=20),
        runset_settings=ws.RunsetSettings(groupby=[ws.Metric("Group"), ws.Metric("JobType")]),
    )


def as_json(built: Any) -> str:
    """What W&B stores of a workspace."""
    return built._to_model().model_dump_json(by_alias=True, exclude_none=True, indent=2)
