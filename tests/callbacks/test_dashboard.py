"""A run that was started twice, read back from its offline W&B files and from TensorBoard's."""

from __future__ import annotations

import json
import re
from pathlib import Path

import metric_examples
import pytest
from commands import NETWORK, QUICK, TASKS, batches, forked, resolution
from sharing import shared
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb_records import finished, history

from ufo.cli.main import main
from ufo.dashboard import UTILISATION, as_json, keys, sections, workspace
from ufo.metrics.base import scoring
from ufo.tasks import kind_of, task_names

SOURCES = {f"digits/{task}": task for task in TASKS}
METRICS = [metric() for metric in metric_examples.METRICS]


@pytest.fixture(scope="module")
def run(scenes, tmp_path_factory) -> Path:
    """Ten steps, stopped after six: two files of W&B."""
    small = [*NETWORK, *QUICK, *resolution(56, 56), *batches(2, *TASKS, evaluated=8), *scenes]
    extra = ["logger=[tensorboard,wandb]", "trainer.val_check_interval=6", "tasks.caption.max_length=4"]

    def train(out: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("WANDB_SILENT", "true")
            for steps in (6, 12):
                done = forked("train.py", *small, *extra, f"trainer.max_steps={steps}", out=out)
                assert done.codes == [0], done.text

    return shared(tmp_path_factory, "started_twice", train)


@pytest.fixture(scope="module")
def parts(run) -> list[list]:
    """The records of both starts."""
    return [finished(folder) for folder in sorted((run / "wandb").glob("offline-run-*"))]


@pytest.fixture(scope="module")
def logged(parts) -> dict:
    """Values by key and step, of both starts."""
    joined: dict = {}
    for part in parts:
        for key, values in history(part).items():
            joined.setdefault(key, {}).update(values)
    return joined


@pytest.mark.slow
def test_every_panel_finds_its_metric(logged):
    wanted = set(keys(sections(SOURCES, METRICS))) - set(UTILISATION.values())  # a CPU's peak is not known
    # pictures and tables are objects, their parts are logged
    missing = [key for key in wanted if not any(k == key or k.startswith(f"{key}/") for k in logged)]
    assert missing == []
    patterns = [p.regex for section in sections(SOURCES, METRICS) for p in section.panels if p.regex]
    assert patterns and all(any(re.fullmatch(p, key) for key in logged) for p in patterns)
    assert len(wanted) > 30


@pytest.mark.slow
def test_a_resumed_run_goes_on_under_its_id(parts, logged):
    ids = {record.run.run_id for part in parts for record in part if record.HasField("run")}
    assert len(parts) == 2 and len(ids) == 1
    assert sorted(history(parts[0])["train/grad_norm"]) == list(range(6))
    assert sorted(logged["train/grad_norm"]) == list(range(12))
    assert sorted(logged["val/digits/detection/mAP"]) == [5, 11]


@pytest.mark.slow
def test_runs_are_grouped_and_carry_config_and_code(parts):
    (started,) = [record.run for record in parts[0] if record.HasField("run")][:1]
    assert (started.run_group, started.job_type) == ("digits_ufo_vit_tiny", "train")
    keys = {
        u.key or "/".join(u.nested_key) for r in parts[0] for u in [*r.run.config.update, *r.config.update]
    }
    assert {"optimizer", "tasks", "run"} <= {key.split("/")[0] for key in keys}
    info = [
        u.value_json for r in parts[0] for u in [*r.run.config.update, *r.config.update] if u.key == "run"
    ]
    assert {"git", "packages", "command"} <= set(json.loads(info[-1]))


@pytest.mark.slow
def test_the_summary_holds_the_best_values(parts, run):
    asked = [record.metric for record in parts[0] if record.HasField("metric")]
    assert any(m.glob_name == "val/*" and m.summary.max and m.summary.last for m in asked)
    best = json.loads((run / "metrics.json").read_text())
    summary = {
        u.key or "/".join(u.nested_key): json.loads(u.value_json)
        for part in parts
        for record in part
        for u in record.summary.update
    }
    found = {name: value for name, value in summary.items() if name in best}
    assert found
    for name, value in found.items():
        small = name.endswith("format_error_rate")  # the smallest is the best
        kind, choose = ("min", min) if small else ("max", max)
        if not isinstance(value, dict):  # a metric that was always 0 is summarised as the plain number
            value = {"last": value, kind: value}
        assert value["last"] == pytest.approx(best[name]["last"])
        assert value[kind] == pytest.approx(choose(best[name]["last"], best[name]["best"]))
        assert choose(best[name]["best"], best[name]["last"]) == best[name]["best"]


@pytest.mark.slow
def test_tensorboard_shows_the_same_scalars_and_pictures(run, logged):
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    tags = events.Tags()
    internal = ("_", "trainer/", "val/digits")  # of W&B; metrics are checked below
    scalars = {k for k, v in logged.items() if not k.startswith(internal) and len(k.split("/")) < 5}
    assert scalars <= set(tags["scalars"])
    assert [e.step for e in events.Scalars("train/grad_norm")] == list(range(12))
    for key, values in logged.items():
        if re.fullmatch(r"val/digits/\w+/[\w@.-]+", key):
            assert {e.step: e.value for e in events.Scalars(key)} == pytest.approx(values)
    for source in SOURCES:
        assert {f"val/{source}/pictures", f"val/{source}/worst"} <= set(tags["images"])


@pytest.mark.slow
def test_utilisation_is_left_out_on_a_cpu_with_a_note(run, logged):
    assert "speed/mfu" not in logged and min(logged["speed/tflops"].values()) > 0
    assert "speed/mfu is left out" in (run / "train.log").read_text()


def test_the_workspace_is_json(tmp_path, capsys):
    pytest.importorskip("wandb_workspaces")
    out = tmp_path / "made" / "dashboard.json"
    assert main(["dashboard", "experiment=digits", "--project", "p", "--out", str(out)]) == 0
    assert "not sent" in capsys.readouterr().out
    content = out.read_text()
    assert json.loads(content) and out.read_text().count("lr-.*") == 1
    for key in keys(sections(SOURCES, METRICS)):
        assert key in content, key


def test_every_task_has_its_panels():
    """Numbers, losses, pictures, worst images, a table where its kind has one: also of tasks added later."""
    tasks = task_names()
    shown = keys(sections({f"x/{task}": task for task in tasks}, METRICS))
    for task in tasks:
        assert {f"val/x/{task}/{name}" for name in ("pictures", "worst")} <= set(shown), task
        assert f"train/x/{task}/loss" in shown
        assert (f"train/x/{task}/dice" in shown) == kind_of(task).masks
        assert (f"val/x/{task}/answers" in shown) == bool(kind_of(task).columns)
        (metric,) = scoring(task, METRICS)
        assert {f"val/x/{task}/{number}" for number in metric.numbers} <= set(shown)


def test_an_official_mixture_has_a_panel_for_each_source():
    pytest.importorskip("wandb_workspaces")
    sources = {"coco/detection": "detection", "refcoco/grounding": "grounding", "x/vqa": "vqa"}
    content = as_json(workspace("e", "p", "n", sources, METRICS))
    for key in ("val/coco/detection/mAP", "val/refcoco/grounding/worst", "train/x/vqa/loss"):
        assert key in content
    assert "val/x/vqa/worst" in content and "val/x/vqa/answers" in content
