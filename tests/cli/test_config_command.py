"""`ufo config`: the value, and the file and line of everything that sets it."""

from __future__ import annotations

import re

import pytest
from commands import ROOT
from hydra.core.hydra_config import HydraConfig

from ufo.checkpoints.recipes import compose
from ufo.cli.main import main


@pytest.fixture
def said(capsys, monkeypatch):
    """What the command prints, in lines."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)  # no job that could say where its folder is

    def run(*words: str, code: int = 0) -> list[str]:
        capsys.readouterr()
        assert main(["config", *words]) == code
        printed = capsys.readouterr()
        return (printed.err if code else printed.out).splitlines()

    return run


def line_at(place: str) -> str:
    path, _, number = place.partition(":")
    return (ROOT / path).read_text().splitlines()[int(number) - 1]


def test_a_value_that_is_to_be_given_is_called_so(said):
    """`ckpt: ???` of an evaluation ended the command with a KeyError."""
    given = [line for line in said("--evaluate") if line.startswith("ckpt = ")]
    assert len(given) == 1 and given[0].startswith("ckpt = ??? (to be given)")
    assert said("--evaluate", "ckpt")[0] == "ckpt = ??? (to be given)"
    assert said("--evaluate", "ckpt", "ckpt=x")[0] == "ckpt = x"


def test_the_last_file_counts_and_what_it_replaced_is_named(said):
    value, first, second, *_ = said("trainer.max_steps", "experiment=digits_shifted")
    assert value == "trainer.max_steps = 400"
    place = re.fullmatch(r"  (conf/experiment/part/short\.yaml:\d+): 400", first)
    assert place and "max_steps: 400" in line_at(place[1])
    assert second.startswith("  instead of conf/experiment/digits.yaml:")


def test_the_command_line_and_what_a_value_refers_to(said):
    lines = said("tasks.caption.image_size", "resolution.caption=224")
    assert lines[0] == "tasks.caption.image_size = 224"
    assert re.fullmatch(r"  conf/task/caption\.yaml:\d+: \$\{resolution\.caption\}", lines[1])
    assert lines[2].strip() == "resolution.caption = 224"
    assert lines[3].strip() == "command line: 224"
    assert lines[4].strip().startswith("instead of conf/resolution/112.yaml:")


def test_a_size_that_is_referred_to_through_the_task(said):
    lines = said("sources.caption.transform.train.size")
    assert lines[0].endswith("= 112") and "conf/transform/plain.yaml" in lines[1]
    assert any("sources.caption.task = caption" in line for line in lines)
    assert any("resolution.caption = 112" in line for line in lines)


@pytest.mark.parametrize(
    ("name", "default"),
    [("top_tokens", "1"), ("box", "said")],  # `box` is also a variable of one of the task's methods
)
def test_a_default_of_the_code(said, name, default):
    value, place = said(f"tasks.detection.{name}")
    assert value == f"tasks.detection.{name} = {default}"
    file = re.search(r"\((ufo/tasks/\w+\.py:\d+)\)", place)
    assert file and f"{name}: " in line_at(file[1]) and default in line_at(file[1])


@pytest.mark.heavy
def test_a_group_and_the_whole_config_are_tables(said):
    lines = said("optimizer", "experiment=digits")
    assert any(re.match(r"optimizer\.lr = 0\.001 +conf/experiment/digits\.yaml:\d+$", line) for line in lines)
    whole = said()
    assert len(whole) > 150 and any("known when a run starts" in line for line in whole)


def test_a_file_of_the_users_own(said, tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 7\n")
    value, place, *_ = said("seed", "experiment=mine", "--config-dir", str(tmp_path))
    assert value == "seed = 7" and place == f"  {tmp_path}/experiment/mine.yaml:2: 7"


def test_a_resolution_is_a_number_in_every_command(said):
    value, *_ = said("tasks.detection.image_size", "experiment=digits", "resolution=224")
    assert value == "tasks.detection.image_size = 224"
    assert compose(["experiment=digits", "resolution=224"]).tasks.detection.image_size == 224


def test_a_wrong_key_or_option(said):
    (line,) = said("optimizer.lrr", code=1)
    assert "no key 'optimizer.lrr'" in line and "did you mean optimizer.lr" in line
    (line,) = said("seed", "experiment=digitz", code=1)
    assert "did you mean 'digits'?" in line
