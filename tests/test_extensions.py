"""Packages of others: found where they are installed or named, and nothing else is."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from commands import NETWORK, QUICK, ROOT, SCENES, environment
from hydra.core.global_hydra import GlobalHydra
from test_docs import named_blocks

from ufo import extensions
from ufo.backbones import make_backbone
from ufo.checkpoints import recipes
from ufo.checkpoints.errors import CheckpointError
from ufo.checkpoints.read import build_for
from ufo.cli.main import main
from ufo.extensions import VARIABLE, ExtensionError
from ufo.runs.evaluation import read_config
from ufo.tasks import task_names
from ufo.tasks.detection import Detection

DATA = """
from ufo.data.datasets import CocoDataset
from ufo.metrics.box_map import BoxMAP
from lightning.pytorch import Callback
class Owls(CocoDataset): pass
class OwlMAP(BoxMAP): pass
class Diary(Callback): pass
"""


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """What one test has named is not known to the next one."""
    before = set(sys.modules)
    for function in (extensions._load, extensions._installed):
        function.cache_clear()
    yield
    for name in set(sys.modules) - before:
        if name.startswith("strange"):
            del sys.modules[name]
    monkeypatch.undo()
    for function in (extensions._load, extensions._installed):
        function.cache_clear()
    GlobalHydra.instance().clear()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package `strange` that Python finds; the folder of its modules."""
    folder = tmp_path / "site" / "strange"
    (folder / "parts").mkdir(parents=True)
    for name, text in {
        "__init__": "",
        "parts/__init__": "",
        "parts/data": DATA,
        "_own": "raise Ouch",
    }.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder.parent))
    return folder


def test_modules_of_a_named_package_are_imported_at_any_depth(package, monkeypatch):
    monkeypatch.setenv(VARIABLE, " strange, ")
    assert extensions.names() == ("strange",)
    extensions.load()
    assert {"strange.parts.data"} == {n for n in sys.modules if n.startswith("strange.parts.")}
    assert "strange._own" not in sys.modules
    assert extensions.owns("strange.parts") and not extensions.owns("stranger")


def test_an_installed_package_names_itself(package):
    record = package.parent / "strange-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: strange\nVersion: 1.0\n")
    (record / "entry_points.txt").write_text("[ufo.extensions]\nstrange = strange\n")
    assert extensions.names() == ("strange",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "Python does not find the package 'strange_absent' .*install it, .*PYTHONPATH=FOLDER"),
        ("import strange_library", "cannot be imported: ModuleNotFoundError: .*strange_library"),
        ("def f(:", "cannot be imported: SyntaxError"),
    ],
)
def test_what_cannot_be_imported_is_one_sentence(text, said, package, monkeypatch, capsys):
    if text is not None:
        (package.parent / "strange_absent.py").write_text(text)
    monkeypatch.setenv(VARIABLE, "strange_absent")
    for ask in (task_names, lambda: make_backbone("Strange")):
        with pytest.raises(ExtensionError, match=said):
            ask()
    assert main(["data", "list"]) == 1
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1 and re.match(f"error: .*{said}", error)


def test_configs_of_a_package_stand_behind_those_of_the_project(package, monkeypatch):
    for name, text in {"owls": "max_length: 7", "detection": "max_length: 8"}.items():
        (package / "conf" / "task").mkdir(parents=True, exist_ok=True)
        (package / "conf" / "task" / f"{name}.yaml").write_text(f"defaults: [caption]\n{text}\n")
    monkeypatch.setenv(VARIABLE, "strange")
    assert "owls" in extensions.options("task") and "caption" in extensions.options("task")
    cfg = recipes.compose(["+task@tasks.owls=owls"])
    assert cfg.tasks.owls.max_length == 7 and cfg.tasks.detection.get("max_length") != 8
    monkeypatch.delenv(VARIABLE)
    assert "owls" not in extensions.options("task")


def a_run(folder: Path, name: str) -> Path:
    """The folder of a run with a data set of the package, and two callbacks of it."""
    data = {"_target_": f"strange.parts.data.{name}"}
    sources = {"owls": {"name": "owls/detection", "task": "detection", "dataset": {"val": data}}}
    callbacks = {name: {"_target_": f"strange.parts.data.{name}"} for name in ("OwlMAP", "Diary")}
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump({"sources": sources, "callbacks": callbacks}))
    return folder


def test_a_run_may_name_what_is_of_a_named_package(package, monkeypatch, tmp_path, capsys):
    run = a_run(tmp_path / "x", "Owls")
    with pytest.raises(CheckpointError, match=f"names strange.parts.data.Owls, .*{VARIABLE} names"):
        read_config(run)
    assert "'OwlMAP' is left out" in capsys.readouterr().err and "strange" not in sys.modules
    monkeypatch.setenv(VARIABLE, "strange")
    assert set(read_config(run)["callbacks"]) == {"OwlMAP"} and not capsys.readouterr().err
    for name in ("os.system", "Callback", "Absent"):
        with pytest.raises(CheckpointError, match="neither a data set"):
            read_config(a_run(tmp_path / name, name))


def test_two_tasks_of_one_name_are_refused():
    from ufo.tasks import _check_one

    class Other(Detection):
        pass

    with pytest.raises(ValueError, match=r"Detection and .*Other are both the task 'detection'"):
        _check_one(Other, Detection)


def test_a_model_says_which_package_it_lacks_and_nothing_is_imported(package):
    description = {"backbone": {"type": "Strange"}, "tasks": {}, "packages": ["strange", "../x", 7]}
    with pytest.raises(CheckpointError, match=rf"trained with the package 'strange': name it in {VARIABLE}="):
        build_for(description, "x")
    assert "strange" not in sys.modules


def test_a_training_says_which_package_nothing_else_would_find(package, monkeypatch, caplog):
    with caplog.at_level(logging.WARNING):
        extensions.say_unnamed(["strange"])
    assert f"{VARIABLE}=strange" in caplog.text
    caplog.clear()
    for named in ("strange", "strange.parts"):
        monkeypatch.setenv(VARIABLE, named)
        extensions.say_unnamed(["strange"])
    assert not caplog.text


@pytest.mark.slow(minutes=1)
def test_a_task_of_a_package_is_trained_predicted_and_evaluated(tmp_path):
    """The task that README.md adds to the project, outside of it: no file of the project is touched."""
    package = tmp_path / "strange_counts"
    blocks = named_blocks(ROOT / "README.md") | named_blocks(ROOT / "docs" / "extending.md")
    for name in ("ufo/tasks/count.py", "conf/task/count.yaml", "conf/source/digits_count.yaml"):
        place = package / Path(name).relative_to("ufo/tasks" if name.endswith(".py") else ".")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(blocks[name].replace("ufo.tasks.count", "strange_counts.count"))
    mixture = package / "conf" / "mixture" / "counts.yaml"
    mixture.parent.mkdir()
    mixture.write_text(blocks["conf/mixture/counts.yaml"])
    (package / "__init__.py").touch()

    def ufo(*words: str) -> str:
        env = environment(PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]), **{VARIABLE: package.name})
        done = subprocess.run(
            [sys.executable, "-m", "ufo.cli.main", *words],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    quick = [o for o in QUICK if not o.startswith("tasks.")]
    scenes = [f"prepare.digits.{key}={value}" for key, value in {"out": tmp_path / "d", **SCENES}.items()]
    sizes = [f"sources.digits_count.{key}=4" for key in ("batch_size", "val_batch_size")]
    small = ["resolution.detection=56", "resolution.caption=56", "logger=csv", *sizes, *scenes]
    ufo("train", "mixture=counts", "backbone=ufo_vit_tiny", "name=c", *NETWORK, *quick, *small)
    picture = str(tmp_path / "d" / "val" / "images" / "000001.jpg")
    assert "count: " in ufo("predict", picture, "--ckpt", "runs/c", "--task", "count")
    assert "val/digits/count/accuracy" in ufo("evaluate", "ckpt=runs/c", "num_workers=0", "logger=csv")
