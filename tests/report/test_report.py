"""The report of an evaluation: what it counts, what it shows, and that it needs nothing beside itself."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from metric_examples import CLASSES, batch_of, example, metric_for

from ufo import report
from ufo.callbacks.evidence import STEPS, Evidence
from ufo.cli.main import main
from ufo.report import tallies
from ufo.report.charts import lines
from ufo.report.gather import differences, gather
from ufo.report.html import page
from ufo.runs import results
from ufo.tasks import task_names

EVIL = "<script>alert(1)</script>\"'&"
TASKS = tuple(task_names())


def evaluated(folder, tasks=TASKS, noise=0.4, name="measured") -> None:
    """What an evaluation leaves in a folder."""
    evidence = Evidence(folder, worst=2, best=1, of_each=1)
    trainer = SimpleNamespace(
        is_global_zero=True, callbacks=[metric_for(tasks[0])], datamodule=SimpleNamespace(sources=[])
    )
    evidence.start()
    for task in tasks:
        pairs = [example(task, id, noise) for id in range(5)]
        evidence.see(trainer, [prediction for prediction, _ in pairs], batch_of(task, pairs))
        evidence.see(trainer, [prediction for prediction, _ in pairs[:1]], batch_of(task, pairs[:1]))
    evidence.finish(trainer, None)
    report.of_evaluation(
        folder, {f"val/{name}": 0.5, "val/undefined": None}, {"paper": {f"val/{name}": 0.6}, "released": None}
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of an evaluation of all tasks; nobody writes there."""
    made = tmp_path_factory.mktemp("run")
    evaluated(made)
    return made


def test_a_report_is_one_file_that_loads_nothing(folder):
    text = (folder / "report.html").read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", text)
    assert "http" not in text.replace("http-equiv", "") and "url(" not in text
    for task in TASKS:
        assert f'<section id="s-digits-{task.replace("_", "-")}">' in text
    assert text.count("<figure") >= 3 * len(TASKS)


def test_an_image_that_comes_twice_counts_once(folder):
    found = json.loads((folder / "evidence.json").read_text())["sources"]
    assert {source["images"] for source in found.values()} == {5}


def test_measured_stands_beside_expected(folder):
    text = page(gather(folder))
    row = re.search(r"<tr><th[^>]*>val/measured</th>(.*?)</tr>", text)[1]
    assert re.findall(r">([^<]+)</td>", row) == ["0.5000", "0.6000", "-"]
    row = re.search(r"<tr><th[^>]*>val/undefined</th>(.*?)</tr>", text)[1]
    assert re.findall(r">([^<]+)</td>", row) == ["-", "-", "-"]


def test_pictures_can_be_filtered_by_class_and_error(folder):
    text = (folder / "report.html").read_text()
    section = text[text.index('id="s-digits-detection"') :].partition("</section>")[0]
    cards = re.findall(r'data-class="([^"]*)" data-error="([^"]*)"', section)
    options = set(re.findall(r'<option value="([^"]+)">', section))
    assert {name for names, _ in cards for name in names.split("\n") if name} <= options
    assert {what for _, faults in cards for what in faults.split("\n") if what} <= options
    assert options & set(CLASSES)


def test_texts_of_a_run_are_escaped_wherever_they_stand(tmp_path):
    evaluated(tmp_path, ("detection",))
    found = json.loads((tmp_path / "evidence.json").read_text())
    [source] = found["sources"].values()
    for key in ("said", "there", "pairs", "faults"):
        source[key] = dict.fromkeys([EVIL], next(iter(source[key].values())))
    for name in list(source["pairs"]):
        source["pairs"][name] = {EVIL: 3.0}
    for picture in source["pictures"]:
        picture |= {"file": EVIL, "said": EVIL, "names": [EVIL], "faults": [EVIL]}
    source["pictures"][0]["picture"] = f"data:image/png,{EVIL}"
    source["pictures"][1]["picture"] = "javascript:alert(1)"
    found["sources"] = {EVIL: source}
    (tmp_path / "evidence.json").write_text(json.dumps(found))
    (tmp_path / "config.yaml").write_text(json.dumps({EVIL: EVIL}))
    (tmp_path / "csv" / "version_0").mkdir(parents=True)
    (tmp_path / "csv" / "version_0" / "metrics.csv").write_text('step,"val/<b>x"\n1,0.5\n2,0.6\n')
    other = gather(tmp_path)
    other.config, other.name = {}, EVIL
    text = page(gather(tmp_path), other)
    assert text.count("<script>") == 1 and "alert(1)</script>" not in text
    assert "<b>x" not in text and "javascript:" not in text


def test_missing_numbers_are_not_drawn(tmp_path):
    evaluated(tmp_path, ("detection",))
    csv = tmp_path / "csv" / "version_0" / "metrics.csv"
    csv.parent.mkdir(parents=True)
    csv.write_text("step,val/a,val/b,train/loss\n1,nan,,3\n2,0.5,inf,\n3,0.7,,2.5\n,9,9,9\n")
    curves = gather(tmp_path).curves
    assert curves == {"val/a": [(2.0, 0.5), (3.0, 0.7)], "train/loss": [(1.0, 3.0), (3.0, 2.5)]}
    assert lines("empty", {"a": []}, "x", "y") == ""
    assert "nan" not in page(gather(tmp_path)).lower()


def test_two_runs_are_compared(tmp_path):
    for number, rate in (("one", 0.1), ("two", 0.2)):
        evaluated(tmp_path / number, ("caption",))
        (tmp_path / number / "config.yaml").write_text(json.dumps({"optimizer": {"lr": rate}, "seed": 0}))
    one, two = gather(tmp_path / "one"), gather(tmp_path / "two")
    assert differences(one, two) == [("optimizer.lr", "0.1", "0.2")]
    assert main(["report", str(tmp_path / "one"), "--versus", str(tmp_path / "two")]) == 0
    text = (tmp_path / "one" / "report.html").read_text()
    assert "optimizer.lr" in text and "one against two" in text
    again = page(one, replace(two, name="one"))
    assert again.count('<th scope="col">one</th>') < again.count('<th scope="col">one (the other)</th>') * 3


def test_a_folder_without_an_evaluation_is_refused(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 1
    assert "ufo evaluate" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "nowhere")]) == 1
    results.write(tmp_path / "a", 3, {"val/x": 0.5})
    capsys.readouterr()
    assert main(["report", str(tmp_path)]) == 1
    assert f"is no run; name one of those in it: {tmp_path / 'a'}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("evidence.json", '{"trivial": {}, "sour'),
        ("evidence.json", "[]"),
        ("evidence.json", '{"sources": {"a": 3}}'),
        ("evidence.json", '{"sources": {"a": {"images": "x", "said": [1]}}}'),
        ("evidence.json", '{"sources": {"a": {"faults": {"missed": "many"}}}}'),
        ("evaluation.json", "\x00"),
    ],
)
def test_a_damaged_file_is_named_and_nothing_is_written(name, content, tmp_path, capsys):
    """A report without its pictures would look as if there were none."""
    (tmp_path / "evaluation.json").write_text('{"measured": {"val/a": 0.5}}')
    (tmp_path / name).write_text(content)
    assert main(["report", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and name in said and "damaged" in said and "evaluate again" in said
    assert not (tmp_path / "report.html").exists()


# ---------------------------------------------------------------- counts


def test_a_curve_of_precision_and_recall_by_hand():
    said = np.zeros((2, STEPS), dtype=int)
    said[1, 180], said[0, 160], said[1, 140] = 1, 1, 1  # right, wrong, right
    points = tallies.precision_recall(said, 4)
    assert points == [(0.25, 1.0), (0.25, 0.5), (0.5, pytest.approx(2 / 3))]
    assert tallies.average_precision(points) == pytest.approx(0.25 + 0.25 * 2 / 3)
    assert tallies.average_precision([]) is None
    assert tallies.precision(said) == (2, 3)


def test_calibration_is_the_share_that_is_right():
    counts = np.zeros((2, STEPS), dtype=int)
    counts[1, 150], counts[0, 150] = 3, 1
    [(score, share)] = tallies.calibration(counts)
    assert score == pytest.approx(0.7525) and share == 0.75


def test_numbers_of_a_part_stand_in_for_none_of_all_data(tmp_path):
    """They are shown where there are no others, and called what they are."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("{}")
    evaluated(run / "evaluate_part", ("caption",), name="few")
    assert "val/few" in gather(run).measured and gather(run).name == "run (a part of its data)"
    evaluated(run / "evaluate", ("caption",), name="all")
    assert "val/all" in gather(run).measured and gather(run).name == "run"
    part = gather(run / "evaluate_part")
    assert "val/few" in part.measured and "run (a part of its data)" in page(part)
