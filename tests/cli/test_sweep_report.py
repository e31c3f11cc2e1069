"""The table and the plots of a sweep, from nothing but the records of its runs."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest

from ufo.cli.main import main
from ufo.sweeps.record import Record, read
from ufo.sweeps.report import _points, gather, swept

pytestmark = pytest.mark.heavy

KEY = "val/digits/detection/mAP"


def run(
    folder: Path, name: str, state: str, overrides: list[str], value: float | None = None, **more
) -> None:
    (folder / name).mkdir(parents=True)
    (folder / "multirun.yaml").touch()
    times = {"started": "2026-01-01T00:00:00+00:00", "ended": "2026-01-01T01:30:00+00:00"}
    Record(state, overrides=overrides, objective=value, **{**times, **more}).write(folder / name)
    if value is not None:
        content = {KEY: {"best": value + 0.1, "last": value, "step": 3}}
        (folder / name / "metrics.json").write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path) -> Path:
    common = ["experiment=digits"]
    run(tmp_path, "10", "finished", [*common, "lr=1e-2", "seed=1"], 0.5)
    run(tmp_path, "2", "finished", [*common, "lr=1e-4", "seed=1"], 0.25)
    run(tmp_path, "1", "failed", [*common, "lr=1e-3", "seed=1"], why="RuntimeError: a | b")
    run(tmp_path, "0", "pruned", [*common, "lr=1e-3", "+seed=2"], 0.1, why="behind")
    run(tmp_path, "11", "running", [*common, "lr=1e-3", "seed=3"], ended="", pid=2**22 + 1)
    return tmp_path


def test_report__has_every_run_with_what_was_swept_and_why_it_ended(folder, capsys):
    assert main(["sweep-report", str(folder)]) == 0
    with open(folder / "report" / "report.csv", newline="") as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["0", "1", "2", "10", "11"]
    assert list(rows["0"])[:4] == ["run", "lr", "seed", "state"]
    assert [row["state"] for row in rows.values()] == ["pruned", "failed", "finished", "finished", "stopped"]
    assert rows["10"] | {"objective": "0.5000", KEY: "0.6000", "minutes": "90.0", "lr": "1e-2"} == rows["10"]
    assert rows["0"]["seed"] == "2"
    assert rows["1"]["why"] == "RuntimeError: a | b"
    assert "killed?" in rows["11"]["why"]
    lines = (folder / "report" / "report.md").read_text().splitlines()
    assert "1 pruned, 1 failed, 2 finished, 1 stopped" in lines
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + 5
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    printed = capsys.readouterr().out
    assert "1: failed, RuntimeError: a | b" in printed and str(folder / "report" / "report.md") in printed


def test_report__draws_a_plot_per_swept_parameter(folder):
    pytest.importorskip("matplotlib")
    main(["sweep-report", str(folder)])
    plots = list((folder / "report").glob("*.png"))
    assert {p.name for p in plots} == {"report_lr.png", "report_seed.png"}
    assert all(p.stat().st_size > 3000 for p in plots)


def test_everything__is_in_one_place_and_nothing_old_stays(folder):
    before = {p.name for p in folder.iterdir()}
    (folder / "report").mkdir()
    (folder / "report" / "report_width.png").touch()
    main(["sweep-report", str(folder)])
    assert {p.name for p in folder.iterdir()} == {*before, "report"}
    assert not (folder / "report" / "report_width.png").exists()


def test_a_number_that_is_missing__is_not_plotted(folder):
    """A run without the parameter, one without the metric, and one that has diverged."""
    run(folder, "12", "finished", ["experiment=digits", "seed=1"], 0.3)
    run(folder, "13", "finished", ["experiment=digits", "lr=1", "seed=1"])
    run(folder, "14", "finished", ["experiment=digits", "lr=2", "seed=1"], float("nan"))
    run(folder, "15", "finished", ["experiment=digits", "lr=3", "seed=1"], float("inf"))
    points = _points("lr", KEY, gather(folder))
    assert [(value, state) for value, _, state in points] == [
        ("1e-3", "pruned"),
        ("1e-4", "finished"),
        ("1e-2", "finished"),
    ]


def test_where_no_run_has_a_number__there_is_no_plot(tmp_path):
    pytest.importorskip("matplotlib")
    for name in ("0", "1"):
        run(tmp_path, name, "finished", [f"lr={name}"], float("nan"))
    assert main(["sweep-report", str(tmp_path)]) == 0
    assert not list((tmp_path / "report").glob("*.png"))


def test_runs__of_one_sweep_only_differ_in_what_was_swept(folder):
    runs = gather(folder)
    assert swept(runs) == ["lr", "seed"]
    assert swept(runs[:1]) == []


def test_a_running_process__is_running(tmp_path):
    run(tmp_path, "0", "running", [], ended="", pid=os.getpid())
    run(tmp_path, "1", "running", [], ended="", host="elsewhere", pid=2**22 + 1)
    assert [r.state for r in gather(tmp_path)] == ["running", "running"]


def test_a_folder_without_runs__is_an_error(tmp_path, capsys):
    (tmp_path / "multirun.yaml").touch()
    assert main(["sweep-report", str(tmp_path)]) == 1
    assert main(["sweep-report", str(tmp_path / "none")]) == 1
    assert "no run is in" in capsys.readouterr().err


def test_a_folder_of_runs__is_no_sweep(tmp_path, capsys):
    run(tmp_path / "runs" / "digits_sweep", "0", "finished", [])
    run(tmp_path / "runs", "digits", "finished", [])
    (tmp_path / "runs" / "multirun.yaml").unlink()
    assert main(["sweep-report", str(tmp_path / "runs")]) == 1
    said = capsys.readouterr().err
    assert "no sweep, it has no multirun.yaml" in said and str(tmp_path / "runs" / "digits_sweep") in said
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["digits", "digits_sweep"]
    assert main(["sweep-report", str(tmp_path / "runs" / "digits_sweep" / "0")]) == 1
    assert f"give the folder of one: {tmp_path / 'runs' / 'digits_sweep'}" in capsys.readouterr().err


def test_a_run__is_no_sweep(tmp_path, capsys):
    run(tmp_path, "digits", "finished", [])
    assert main(["sweep-report", str(tmp_path / "digits")]) == 1
    assert "is a run and no sweep" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "digits").iterdir()] == ["status.json"]


def test_a_broken_record__is_none(tmp_path):
    (tmp_path / "status.json").write_text('{"state": "fin')
    assert read(tmp_path) is None
    assert gather(tmp_path)[0].failed


def test_the_headlines__are_what_the_table_shows_and_the_file_has_every_metric(tmp_path, capsys):
    run(tmp_path, "0", "finished", [], 0.5)
    content = {name: {"best": 0.5, "last": 0.5, "step": 1} for name in (KEY, f"{KEY}50")}
    content[f"{KEY}50"]["headline"] = True
    (tmp_path / "0" / "metrics.json").write_text(json.dumps(content))
    assert main(["sweep-report", str(tmp_path)]) == 0
    assert (tmp_path / "report" / "report.csv").read_text().splitlines()[0].count(KEY) == 2
    for text in ((tmp_path / "report" / "report.md").read_text(), capsys.readouterr().out):
        assert text.count(KEY) == 1 and f"{KEY}50" in text


ODD = [
    "[]",
    "null",
    "7",
    '{"state": 5}',
    '{"state": "finished", "overrides": null}',
    '{"state": "finished", "overrides": [1, {}]}',
    '{"state": "running", "pid": "x"}',
    '{"state": "running", "pid": -1}',
    '{"state": "running", "pid": 1e400}',
    '{"state": "finished", "objective": "good"}',
    '{"state": "finished", "started": 4, "ended": "yesterday"}',
    '{"state": "finished", "started": "9999-12-31T23:59:59+00:00", "ended": "0001-01-01T00:00:00"}',
    '{"state": "finished", "why": "\\ud83d", "overrides": ["a=\\ud83d", "\\ud83d=1"], "pid": 7}',
    "[" * 100_000,
    "\x00\xff",
]


@pytest.mark.heavy
@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_one_odd_record__does_not_end_the_report(odd, folder):
    (folder / "odd").mkdir()
    (folder / "odd" / "status.json").write_text(odd, encoding="latin-1")
    assert main(["sweep-report", str(folder)]) == 0
    assert [run.name for run in gather(folder)] == ["0", "1", "2", "10", "11", "odd"]


@pytest.mark.parametrize(
    "odd",
    [
        "[]",
        "{",
        f'{{"{KEY}": 1}}',
        f'{{"{KEY}": {{"best": "x"}}}}',
        f'{{"{KEY}": {{"best": NaN}}}}',
        '{"val/\\ud83d": {"best": 1, "last": 1, "headline": true}}',
        "9" * 5000,
    ],
)
def test_odd_metrics__are_left_out(odd, folder):
    (folder / "2" / "metrics.json").write_text(odd)
    assert main(["sweep-report", str(folder)]) == 0


def test_a_record_that_is_a_pipe_or_a_folder__is_not_waited_for(folder):
    for name in ("pipe", "dir"):
        (folder / name).mkdir()
    os.mkfifo(folder / "pipe" / "status.json")
    (folder / "dir" / "status.json").mkdir()
    assert {run.name: run.state for run in gather(folder)}["pipe"] == "failed"


def test_text_of_a_run__is_no_markdown_and_steers_no_terminal(tmp_path, capsys):
    bad = "<img src=x onerror=alert(1)> [a](http://b) `c` *d*\n| e | \x1b[31m"
    run(tmp_path, "0", "failed", ["lr=1", f"text={bad}"], why=bad)
    run(tmp_path, "1", "finished", ["lr=2", "../../x$y^{=3"], 0.5)
    assert main(["sweep-report", str(tmp_path)]) == 0
    text = (tmp_path / "report" / "report.md").read_text()
    assert "<img" not in text and "&lt;img" in text and "\\[a\\](" in text and "\\`c\\`" in text
    assert len([line for line in text.splitlines() if line.startswith("|")]) == 2 + 2
    printed = capsys.readouterr().out
    assert "\x1b" not in text + printed
    assert not list(tmp_path.parent.glob("report_*"))
