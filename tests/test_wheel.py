"""The wheel alone: built, installed into an environment of its own, used in an empty folder.

The libraries are those of the tests' environment, which stands behind the new one on the path, so that
nothing is downloaded; `ufo` and its configs are the wheel's.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from commands import NETWORK, ROOT, needs_weights
from squares import write_squares

pytestmark = pytest.mark.slow

BUILT_FROM = ("ufo", "hydra_plugins", "conf", "weights")
FILES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "train.py", "evaluate.py")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in BUILT_FROM:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, source)
    (source / "tests").mkdir()
    (source / "tests" / "__init__.py").touch()  # what a checkout has, and a wheel must not have
    made = ["pip", "wheel", str(source), "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder)]
    done = subprocess.run([sys.executable, "-m", *made], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (found,) = folder.glob("*.whl")
    return found


def clean() -> dict[str, str]:
    """The environment without what would make the checkout importable."""
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "UFO_ROOT")}


class Installed:
    """The wheel in an environment of its own, and an empty folder to use it in."""

    def __init__(self, wheel: Path, folder: Path) -> None:
        self.folder, environment = folder / "empty", folder / "environment"
        self.folder.mkdir()
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
        self.bin = environment / "bin"
        pip = [sys.executable, "-m", "pip", "--python", self.bin / "python", "install", "--quiet"]
        subprocess.run([*pip, "--no-deps", "--no-index", wheel], check=True, env=clean())
        (site,) = environment.glob("lib/python*/site-packages")
        (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))
        self.site = site

    def run(self, program: str, *arguments: str) -> str:
        """What a program of the environment prints; it must succeed."""
        done = subprocess.run(
            [self.bin / program, *arguments], cwd=self.folder, env=clean(), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Installed:
    return Installed(wheel, tmp_path_factory.mktemp("installed"))


@pytest.fixture(scope="module")
def birds(installed) -> Path:
    """Eight pictures with one bright square each, COCO format, and the source's yaml."""
    folder = installed.folder / "birds"
    write_squares(folder / "images", folder / "birds.json", 8)
    split = {"_target_": "ufo.data.datasets.CocoDataset", "_partial_": True}
    split |= {"images": "birds/images", "annotations": "birds/birds.json"}
    source = {"name": "birds/detection", "task": "detection", "weight": 1.0, "batch_size": 2}
    source |= {"defaults": [{"/transform@transform": "plain"}]}
    source["dataset"] = {"train": {**split, "train": True}, "val": split}
    own = installed.folder / "mine" / "source"
    own.mkdir(parents=True)
    (own / "birds.yaml").write_text("# @package sources.birds\n" + json.dumps(source))
    return own / "birds.yaml"


def test_wheel__holds_the_package_and_its_plug_ins_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"ufo", "hydra_plugins"}
    assert not [name for name in names if "__pycache__" in name or "/." in name or "/test" in name]
    for folder in ("conf", "weights"):
        here = {
            str(path.relative_to(ROOT))
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
        }
        assert here <= {name.removeprefix("ufo/") for name in names if name.startswith(f"ufo/{folder}/")}


def test_commands__work_in_an_empty_folder(installed, birds):
    imported = installed.run("python", "-c", "import ufo, hydra_plugins.ufo_configs as p; print(p.__file__)")
    assert Path(imported.strip()).is_relative_to(installed.site)
    assert "ade20k" in installed.run("ufo", "data", "list")
    assert str(installed.site / "ufo" / "conf") in installed.run("ufo", "config", "optimizer.lr")
    assert "8 samples" in installed.run("ufo", "data", "check", str(birds)).replace("images", "samples")
    drawn = ("--config-dir", "mine", "mixture=own", "+source=birds", "--steps", "5")
    assert "birds/detection" in installed.run("ufo", "data", "mix", *drawn)
    pytest.importorskip("wandb_workspaces")
    installed.run("ufo", "dashboard", "--out", "board.json")
    assert json.loads((installed.folder / "board.json").read_text())


@needs_weights
def test_demo__runs(installed):
    few = ("prepare.digits.train=16", "prepare.digits.val=4", "trainer.accelerator=cpu", "num_workers=0")
    # all five tasks: test_demo.py
    few = (*few, *(f"sources.{name}=null" for name in ("instance_segmentation", "semantic_segmentation")))
    few = (*few, "sources.grounding=null", "sources.detection.batch_size=2", "sources.caption.batch_size=2")
    printed = installed.run("ufo", "demo", "--minutes", "0.05", "--batches", "1", *few)
    assert "detection mAP50" in printed
    assert (installed.folder / "runs" / "demo" / "model").is_dir()


def test_train_and_evaluate__run(installed, birds):
    own = ("--config-dir", "mine", "mixture=own", "+source=birds", "name=two_steps")
    quick = (
        "num_workers=0",
        "trainer.accelerator=cpu",
        "trainer.max_steps=2",
        "trainer.val_check_interval=2",
        "resolution.detection=56",
    )
    installed.run("ufo", "train", *own, *NETWORK, *quick, "tasks.detection.max_length=12")
    run = installed.folder / "runs" / "two_steps"
    assert (run / "model").is_dir()
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    assert "mAP" in installed.run("ufo", "evaluate", "ckpt=runs/two_steps", "num_workers=0", "logger=none")
