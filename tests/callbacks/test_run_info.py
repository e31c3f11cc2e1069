"""What a run records about itself: files, loggers, git inside and outside a repository."""

from __future__ import annotations

import json
import logging
import os
import subprocess
from importlib import metadata
from pathlib import Path

import lightning as L
import pytest
import torch
import yaml
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from omegaconf import OmegaConf
from one_weight import OneWeight
from torch.utils.data import DataLoader
from trainers import quiet_trainer

from ufo.callbacks import run_info
from ufo.callbacks.run_info import RunInfo, git_revision, resolved

CONFIG = {"seed": 3, "model": {"name": "tiny", "width": "${seed}", "path": None}}
RESOLVED = {"seed": 3, "model": {"name": "tiny", "width": 3, "path": None}}


def trainer(folder: Path, info: RunInfo, logger=False, **more) -> L.Trainer:
    return quiet_trainer(
        default_root_dir=folder,
        callbacks=[info],
        logger=logger,
        max_steps=1,
        log_every_n_steps=1,
        **more,
    )


def data() -> DataLoader:
    return DataLoader(torch.zeros(2, 1))


def run(folder: Path, config=CONFIG, logger=False) -> dict:
    config = OmegaConf.create(config)
    trainer(folder, RunInfo(config, folder), logger).fit(OneWeight(), data())
    return json.loads((folder / "run.json").read_text())


def test_run_is_described(tmp_path):
    info = run(tmp_path)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == RESOLVED
    assert info["stage"] == "fit"
    assert info["packages"]["torch"] == metadata.version("torch")
    assert set(info["packages"]) >= {"ufo-vision", "lightning", "hydra-core", "pycocotools"}
    assert info["world_size"] == 1
    assert info["command"]
    assert info["python"].startswith("3.")
    assert "cpu" in info["devices"][0]
    assert "earlier" not in info
    assert not list(tmp_path.glob(".*.part"))


def test_evaluation_is_described_in_the_root_folder_by_default(tmp_path):
    trainer(tmp_path, RunInfo({"a": 1})).validate(OneWeight(), data(), verbose=False)
    assert json.loads((tmp_path / "run.json").read_text())["stage"] == "validate"


def test_earlier_starts_and_their_configs_are_kept(tmp_path):
    first = run(tmp_path)
    second = run(tmp_path)
    third = run(tmp_path, {"seed": 4})
    assert second["earlier"] == [first]
    assert [e["started"] for e in third["earlier"]] == [first["started"], second["started"]]
    assert yaml.safe_load((tmp_path / third["earlier"][1]["config"]).read_text()) == RESOLVED
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == {"seed": 4}
    (tmp_path / "run.json").write_text("{cut")
    assert "earlier" not in run(tmp_path)


def test_loggers_get_config_and_run(tmp_path):
    loggers = [CSVLogger(tmp_path, "csv", ""), TensorBoardLogger(tmp_path, "tb", "")]
    info = run(tmp_path, logger=loggers)
    for folder in ("csv", "tb"):
        logged = yaml.safe_load((tmp_path / folder / "hparams.yaml").read_text())
        assert logged["model"] == RESOLVED["model"]
        assert logged["run"]["packages"] == info["packages"]
        assert logged["run"]["git"] == info["git"]


@pytest.mark.slow
def test_wandb_gets_the_config(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    for key, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(key, value)
    logger = WandbLogger(save_dir=tmp_path, project="test", offline=True)
    try:
        info = run(tmp_path, logger=logger)
        config = dict(logger.experiment.config)
    finally:
        wandb.finish()
    assert config["model"] == RESOLVED["model"]
    assert config["run"]["started"] == info["started"]


def test_fast_dev_run_writes_nothing(tmp_path):
    trainer(tmp_path, RunInfo({}, tmp_path / "run"), fast_dev_run=True).fit(OneWeight(), data(), data())
    assert not (tmp_path / "run").exists()


def test_unwritable_folder_is_no_end(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        trainer(tmp_path, RunInfo({}, tmp_path / "file")).fit(OneWeight(), data())
    assert "could not be written" in caplog.text


def test_config_becomes_plain():
    values = {1: (1, 2.5, True, None), "path": Path("a/b"), "type": torch.float32}
    assert resolved(values) == {"1": [1, 2.5, True, None], "path": "a/b", "type": "torch.float32"}
    assert resolved(OmegaConf.create(CONFIG)) == RESOLVED


def git(folder: Path, *arguments: str) -> None:
    settings = ("-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", folder, *settings, *arguments], check=True, capture_output=True)


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """A copy of where the code lies, outside any repository; the current folder is elsewhere."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    code = tmp_path / "repo" / "ufo"
    (code / "callbacks").mkdir(parents=True)
    (code / "__init__.py").write_text("")
    monkeypatch.setattr(run_info, "__file__", str(code / "callbacks" / "run_info.py"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return code


def test_git_revision_inside_and_outside_a_repository(package, tmp_path):
    assert git_revision() is None
    repo = package.parent
    git(repo, "init")
    git(repo, "add", ".")
    assert git_revision() is None  # no commit yet
    git(repo, "commit", "-m", "first")
    clean = git_revision()
    assert len(clean["revision"]) == 40
    assert clean["dirty"] is False
    (package / "new.txt").write_text("not tracked")
    assert git_revision() == clean
    (package / "__init__.py").write_text("changed = 1")
    assert git_revision() == {**clean, "dirty": True}


def test_an_image_without_a_repository_says_what_it_was_built_from(package, monkeypatch):
    monkeypatch.setenv("UFO_REVISION", "")  # as where nothing was said
    assert git_revision() is None
    monkeypatch.setenv("UFO_REVISION", "0123abcd")
    assert git_revision() == {"revision": "0123abcd", "dirty": None}
    repo = package.parent
    git(repo, "init")
    git(repo, "add", ".")
    git(repo, "commit", "-m", "first")
    assert len(git_revision()["revision"]) == 40


def test_repository_around_an_installed_package_is_not_its_own(package, tmp_path):
    repo = package.parent  # somebody's repository that the code is installed into
    (repo / "readme").write_text("")
    git(repo, "init")
    git(repo, "add", "readme")
    git(repo, "commit", "-m", "first")
    assert git_revision() is None
    os.chdir(repo)  # but a run started in there is a run of it
    assert git_revision()["dirty"] is False


def test_a_repository_around_the_current_folder_does_not_say_what_code_runs(package, tmp_path, monkeypatch):
    """In a container with the user's project mounted: the variable, or the code's own repository, does."""
    project = tmp_path / "elsewhere"
    (project / "thesis.tex").write_text("")
    git(project, "init")
    git(project, "add", ".")
    git(project, "commit", "-m", "a thesis")
    theirs = git_revision()
    monkeypatch.setenv("UFO_REVISION", "0123abcd")
    assert theirs is not None and git_revision() == {"revision": "0123abcd", "dirty": None}
    repo = package.parent
    git(repo, "init")
    git(repo, "add", ".")
    git(repo, "commit", "-m", "first")
    for revision in ("0123abcd", ""):
        monkeypatch.setenv("UFO_REVISION", revision)
        own = git_revision()
        assert len(own["revision"]) == 40 and own["revision"] != theirs["revision"]


def test_git_may_be_missing(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert git_revision() is None
