"""The task that README.md adds to the project: two files in a copy of it, and everything else follows.

Which tests run in the copy: all that are not slow and go over tasks, kinds, configs or documents; these are
in the folders and files of `SUITES`. They must not know the tasks by name, or they would fail there.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import NETWORK, QUICK, ROOT, SCENES, environment, resolution
from test_docs import named_blocks

pytestmark = pytest.mark.slow

# of about the same length, because two processes of the tests may take one each
SUITES = {
    "configs": (
        *("tests/test_check.py", "tests/test_configs.py", "tests/test_docs.py", "tests/callbacks"),
        *("tests/test_baselines.py", "tests/test_draw.py", "tests/kinds"),
    ),
    "models": ("tests/cli", "tests/head", "tests/metrics", "tests/tasks", "tests/test_model.py"),
}
LEFT_OUT = (".git", ".venv", "runs", "data", "outputs", "demo", "wandb", "build", "dist", "__pycache__")


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The project with the two files of the example."""
    folder = tmp_path_factory.mktemp("copy")
    for path in ROOT.iterdir():
        if path.is_dir() and path.name not in LEFT_OUT:
            shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.is_file():
            shutil.copy(path, folder)
    files = {path: text for path, text in named_blocks(ROOT / "README.md").items() if "count" in path}
    assert sorted(files) == ["conf/task/count.yaml", "ufo/tasks/count.py"]
    data = named_blocks(ROOT / "docs" / "extending.md")
    files |= {path: data[path] for path in ("conf/source/digits_count.yaml", "conf/mixture/counts.yaml")}
    for path, text in files.items():
        assert not (ROOT / path).exists()
        (folder / path).write_text(text, encoding="utf-8")
    return folder


def python(copy: Path, *arguments: str, **more) -> subprocess.CompletedProcess:
    """Python in the copy, which imports the copy's package."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=copy,
        env=environment(PYTHONPATH=str(copy), **more),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    return done


@pytest.mark.parametrize("suite", SUITES)
def test_the_suite_passes_with_it(copy, suite):
    done = python(copy, "-m", "pytest", "-vv", "-p", "no:cacheprovider", "-m", "not slow", *SUITES[suite])
    assert " passed" in done.stdout.splitlines()[-1]  # pytest's status has been looked at
    of_count = re.findall(r"\[(?:.*-)?count(?:-.*)?\] PASSED", done.stdout)
    assert len(of_count) > 5  # it is among the tasks they go over


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    """Where the run draws its scenes."""
    return tmp_path_factory.mktemp("scenes") / "digits"


@pytest.fixture(scope="module")
def run(copy, scenes, tmp_path_factory) -> Path:
    """The folder of a short run of the count task alone."""
    out = tmp_path_factory.mktemp("run")
    digits = [f"prepare.digits.out={scenes}", *(f"prepare.digits.{k}={v}" for k, v in SCENES.items())]
    quick = [o for o in QUICK if not o.startswith("tasks.")]
    small = [
        *resolution(56, 56),
        "tasks.count.max_length=6",
        "logger=csv",
        *(f"sources.digits_count.{k}=4" for k in ("batch_size", "val_batch_size")),
    ]
    quick = [*NETWORK, *quick, "mixture=counts", *small, *digits]
    done = python(copy, "train.py", *quick, f"hydra.run.dir={out}")
    assert "No metric scores" not in done.stdout + done.stderr
    return out


def test_it_is_scored(run):
    best = json.loads((run / "metrics.json").read_text())
    assert best["val/digits/count/accuracy"]["headline"]
    assert {"val/digits/count/exact_match", "val/digits/count/ANLS"} <= best.keys()


def test_it_is_drawn_and_its_worst_images_are_listed(run):
    assert list(run.glob("pictures/*/digits_count.png"))
    (table,) = list(run.glob("worst/*/digits_count.csv"))[-1:]
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows and all(row["truth"].isdigit() for row in rows)


def test_it_is_predicted_under_its_own_name(copy, run, scenes, tmp_path):
    assert "count" in python(copy, "-m", "ufo.cli.main", "predict", "--help").stdout
    results, picture = tmp_path / "results.json", tmp_path / "picture.png"
    image = sorted(scenes.glob("val/images/*.jpg"))[0]
    options = ["--ckpt", str(run / "model"), "--task", "count", "--json", str(results), "--out", str(picture)]
    done = python(copy, "-m", "ufo.cli.main", "predict", str(image), *options)
    assert f"{image.name}  count: " in done.stdout
    (record,) = json.loads(results.read_text())
    assert set(record) == {"image_id", "file_name", "count"} and picture.is_file()


def test_a_dashboard_shows_it(copy):
    code = (
        "from ufo.dashboard import keys, sections; from ufo.metrics.answers import AnswerScores; "
        "print(keys(sections({'x/count': 'count'}, [AnswerScores()])))"
    )
    shown = python(copy, "-c", code).stdout
    for name in ("accuracy", "pictures", "answers", "worst"):
        assert f"val/x/count/{name}" in shown
