"""The task that README.md adds to the project: two files in a copy of it, and everything else follows.

Which tests run in the copy: all that are not slow and go over tasks, kinds, configs or documents; these are
in the folders and files of `SUITES`. They must not know the tasks by name, or they would fail there. Where a
test has many cases, `tests/added_cases.py` keeps those of the added task and of the documents with it.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from commands import NETWORK, QUICK, ROOT, SCENES, environment, resolution
from sharing import shared
from test_docs import named_blocks

pytestmark = pytest.mark.slow

# of about the same length, because two processes of the tests may take one each
SUITES = {
    "configs": (
        *("tests/check", "tests/test_check.py", "tests/test_configs.py", "tests/test_docs.py"),
        *("tests/callbacks", "tests/test_baselines.py", "tests/test_draw.py", "tests/kinds"),
    ),
    "models": ("tests/cli", "tests/head", "tests/metrics", "tests/tasks", "tests/test_model.py"),
}
LEFT_OUT = (".git", ".venv", "runs", "data", "outputs", "demo", "wandb", "build", "dist", "__pycache__")


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The project with the two files of the example."""
    return shared(tmp_path_factory, "with_count", make_copy)


def make_copy(folder: Path) -> None:
    """Compiled modules are copied, too: their sources keep size and time."""
    for path in ROOT.iterdir():
        if path.is_dir() and path.name not in LEFT_OUT:
            shutil.copytree(path, folder / path.name)
        elif path.is_file():
            shutil.copy2(path, folder)
    files = {path: text for path, text in named_blocks(ROOT / "README.md").items() if "count" in path}
    assert sorted(files) == ["conf/task/count.yaml", "ufo/tasks/count.py"]
    data = named_blocks(ROOT / "docs" / "extending.md")
    files |= {path: data[path] for path in ("conf/source/digits_count.yaml", "conf/mixture/counts.yaml")}
    for path, text in files.items():
        assert not (ROOT / path).exists()
        (folder / path).write_text(text, encoding="utf-8")


def python(copy: Path, *arguments: str, **more) -> subprocess.CompletedProcess:
    """Python in the copy, which imports the copy's package."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=copy,
        env=environment(PYTHONPATH=os.pathsep.join([str(copy), str(copy / "tests")]), **more),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    return done


@pytest.mark.slow(minutes=1.5)
@pytest.mark.parametrize("suite", SUITES)
def test_the_suite_passes_with_it(copy, suite):
    options = ("-vv", "-p", "no:cacheprovider", "-p", "added_cases", "-m", "not slow")
    added = {"ADDED": "counts?", "DESCRIBED": "README.md extending.md"}
    done = python(copy, "-m", "pytest", *options, *SUITES[suite], **added)
    assert " passed" in done.stdout.splitlines()[-1]  # pytest's status has been looked at
    of_count = re.findall(r"\[(?:.*-)?count(?:-.*)?\] PASSED", done.stdout)
    assert len(of_count) > 5  # it is among the tasks they go over


@pytest.fixture(scope="module")
def run(copy, tmp_path_factory) -> Path:
    """The folder of a short run of the count task alone; its scenes are in `scenes`."""

    def train(out: Path) -> None:
        scenes = {"out": out / "scenes", **SCENES}
        small = [
            *resolution(56, 56),
            "tasks.count.max_length=6",
            "logger=csv",
            *(f"sources.digits_count.{k}=4" for k in ("batch_size", "val_batch_size")),
            *(f"prepare.digits.{key}={value}" for key, value in scenes.items()),
        ]
        quick = [o for o in QUICK if not o.startswith("tasks.")]
        options = [*NETWORK, *quick, "mixture=counts", *small]
        done = python(copy, "train.py", *options, f"hydra.run.dir={out / 'run'}")
        assert "No metric scores" not in done.stdout + done.stderr

    return shared(tmp_path_factory, "count_run", train) / "run"


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


def test_it_is_predicted_under_its_own_name(copy, run, tmp_path):
    results, picture = tmp_path / "results.json", tmp_path / "picture.png"
    image = sorted(run.parent.glob("scenes/val/images/*.jpg"))[0]
    options = ["--ckpt", str(run / "model"), "--task", "count", "--json", str(results), "--out", str(picture)]
    done = python(copy, "-m", "ufo.cli.main", "predict", str(image), *options)
    assert f"{image.name}  count: " in done.stdout
    (record,) = json.loads(results.read_text())
    assert set(record) == {"image_id", "file_name", "count"} and picture.is_file()


def test_help_and_a_dashboard_show_it(copy):
    code = """
        import contextlib
        from ufo.cli.main import main
        from ufo.dashboard import keys, sections
        from ufo.metrics.answers import AnswerScores

        for command in ("predict", "score"):  # it is scored from files by its kind
            with contextlib.suppress(SystemExit):
                main([command, "--help"])
            print("next:")
        print("panels:", keys(sections({"x/count": "count"}, [AnswerScores()])))
    """
    listed, _, shown = python(copy, "-c", textwrap.dedent(code)).stdout.partition("panels:")
    assert all(re.search(r"\bcount\b", part) for part in listed.split("next:")[:2])
    for name in ("accuracy", "pictures", "answers", "worst"):
        assert f"val/x/count/{name}" in shown
