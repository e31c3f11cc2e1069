"""Overrides and Hydra's options in any order, and values with any characters."""

import os
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from ufo.command_line import as_written, clear_command_line, quoted, readable, split_arguments


def value(override: str):
    return OverridesParser.create().parse_override(override).value()


@pytest.mark.parametrize(
    "name",
    ["plain", "Vögel", "a,b", "a=b", "a (1)", "it's", 'a"b', "a\\", "a\\'b", "[x]", "{y}", "a#b"],
)
def test_a_quoted_text_is_read_as_itself(name):
    assert value(f"paths.data={quoted(name)}") == name


def test_an_interpolation_in_a_name_is_no_interpolation():
    from omegaconf import OmegaConf

    cfg = OmegaConf.create({"data": value(f"data={quoted('a/${b}')}")})
    assert cfg.data == "a/${b}"


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("paths.data=/data/Vögel (neu)", "/data/Vögel (neu)"),
        ("init=runs/lr=0.1/model", "runs/lr=0.1/model"),
        ("paths.data=/data/plain", "/data/plain"),
        ("paths.data='/data/plain'", "/data/plain"),
    ],
)
def test_a_path_needs_no_quotes(override, read):
    assert value(readable(override)) == read


def test_commas_separate_values_unless_there_is_such_a_path(tmp_path):
    (tmp_path / "a,b").mkdir()
    assert value(readable(f"paths.data={tmp_path}/a,b")) == f"{tmp_path}/a,b"
    for kept in (
        "init=runs/a,runs/b",
        "logger=[csv,wandb]",
        "paths.data=${paths.root}/data",
        "seed=1",
        "seed",
    ):
        assert readable(kept) == kept


@pytest.mark.parametrize("name", ["it's", 'a "b"', "cost$5", "a${b}", "${name}", "a=b", "a,b", "x (1)", "#1"])
@pytest.mark.parametrize("folder", ["", "runs/"])
def test_a_folder_that_is_there_is_found_whatever_its_name(folder, name, tmp_path, monkeypatch):
    from omegaconf import OmegaConf

    monkeypatch.chdir(tmp_path)
    Path(folder + name).mkdir(parents=True)
    cfg = OmegaConf.create({"name": "other", "ckpt": value(readable(f"ckpt={folder}{name}"))})
    assert cfg.ckpt == folder + name


def test_a_word_is_no_path_although_there_is_such_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for word in ("null", "1e3", "csv", "7"):
        Path(word).touch()
        assert readable(f"init={word}") == f"init={word}"


def test_options_that_are_numbers_are_names():
    assert value(readable("resolution=1120", ["resolution"])) == "1120"
    assert readable("seed=1120", ["resolution"]) == "seed=1120"


@pytest.mark.parametrize(
    "line",
    [
        "--config-dir mine mixture=own seed=1 -m",
        "mixture=own --config-dir mine seed=1 -m",
        "mixture=own -m seed=1 --config-dir mine",
    ],
)
def test_options_and_overrides_in_any_order(line):
    options, overrides = split_arguments(line.split())
    assert sorted(options) == ["--config-dir", "-m", "mine"] and overrides == ["mixture=own", "seed=1"]
    assert options[options.index("--config-dir") + 1] == "mine"


def test_the_value_of_an_option_is_no_override():
    assert split_arguments(["--config-dir", "a=b", "--info", "seed=1"]) == (
        ["--config-dir", "a=b", "--info"],
        ["seed=1"],
    )
    assert split_arguments(["--info", "all"])[1] == []


@pytest.mark.parametrize("options", [[], ["--config-dir", "mine"]])
def test_a_command_line_with_and_without_options(options, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    monkeypatch.setattr("sys.argv", ["train.py", "seed=1", *options, "resolution=112"])
    with clear_command_line("resolution"):
        assert sys.argv[1:] == [*options, "seed=1", "resolution='112'"]


def test_an_option_that_there_is_not_is_told_from_a_setting(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["evaluate.py", "--ckpt", "runs/birds"])
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with pytest.raises(SystemExit), clear_command_line():
        sys.exit(2)  # as argparse does
    assert "written key=value, without dashes: ckpt=VALUE" in capsys.readouterr().err
    assert "UFO_COMPOSES" not in os.environ


@pytest.mark.parametrize(
    ("word", "said"),
    [("--chkpt=a.ckpt", "ckpt=a.ckpt"), ("--experimnt", "experiment=VALUE"), ("--zzz", "ckpt=runs/birds")],
)
def test_the_nearest_setting_is_said(monkeypatch, capsys, word, said):
    monkeypatch.setattr("sys.argv", ["train.py", word])
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with pytest.raises(SystemExit), clear_command_line():
        sys.exit(2)  # as argparse does
    assert capsys.readouterr().err.endswith(f"without dashes: {said}\n")


def test_overrides_are_read_as_they_were_written():
    """In Hydra's list of them a reference would be looked up in that list."""
    from omegaconf import OmegaConf

    written = ["seed=1", "sources.x.dataset.val.images=${..folder}/a", "optimizer.lr=${schedule.lr}"]
    assert as_written(OmegaConf.create(written)) == as_written(written) == written
    assert as_written(None) == []
