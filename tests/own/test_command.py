"""`train.py FILE.yaml`: files become options and overrides; what is chosen is said and can be repeated."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
from commands import NETWORK, run
from hydra.core.global_hydra import GlobalHydra
from squares import write_squares

from ufo import places
from ufo.check import check_config
from ufo.checkpoints import recipes
from ufo.checkpoints.errors import CheckpointError
from ufo.command_line import clear_command_line, readable, searched
from ufo.data.errors import DataError
from ufo.entry import train
from ufo.errors import sentence
from ufo.own.command import own_files, rewritten
from ufo.own.offered import say_offered
from ufo.own.place import find

YAML = """{head}defaults: [/transform@transform: plain]
name: {name}/detection
task: detection
dataset:
  images: {folder}/pictures
  train:
    _target_: ufo.data.datasets.CocoDataset
    _partial_: true
    images: ${{..images}}
    annotations: {folder}/squares.json
    train: true
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder: twelve pictures of one yellow square each, and two yamls that describe them."""
    monkeypatch.chdir(tmp_path)
    write_squares(tmp_path / "pictures", tmp_path / "squares.json", 12)
    for file, head in (("mine/source/squares.yaml", "# @package sources.sq\n"), ("other/plain.yaml", "")):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text(YAML.format(head=head, name=Path(file).stem, folder=tmp_path))
    return tmp_path


def composed(arguments: list[str]):
    """The config of rewritten arguments."""
    at = arguments.index("--config-dir") if "--config-dir" in arguments else None
    overrides = list(arguments)
    if at is not None:
        overrides = [*arguments[:at], *arguments[at + 2 :]]
        overrides.append(f"hydra.searchpath=[file://{Path(arguments[at + 1]).absolute()}]")
    assert not GlobalHydra.instance().is_initialized()
    return recipes.compose([readable(override, ("resolution",)) for override in overrides])


def test_a_file__becomes_a_config_dir_and_a_source(folder):
    arguments = rewritten(["mine/source/squares.yaml", "seed=3"])
    assert arguments[:2] == ["--config-dir", "mine"]
    assert "+source=[squares]" in arguments and arguments[-1] == "seed=3"
    cfg = composed(arguments)
    assert list(cfg.sources) == ["sq"] and cfg.name == "sq"
    check_config(cfg)


def test_a_file_outside_of_a_source_folder__works_as_well(folder):
    cfg = composed(rewritten(["other/plain.yaml"]))
    assert list(cfg.sources) == ["plain"]


def test_two_files_of_two_folders__are_trained_together(folder):
    cfg = composed(rewritten(["mine/source/squares.yaml", "other/plain.yaml"]))
    assert sorted(cfg.sources) == ["plain", "sq"]


def test_a_source_without_val__is_scored_on_its_training_images_and_says_so(folder, capsys):
    cfg = composed(rewritten(["mine/source/squares.yaml"]))
    assert cfg.sources.sq.dataset.val.annotations == str(folder / "squares.json")
    assert "train" not in cfg.sources.sq.dataset.val
    assert "scored on the training images" in capsys.readouterr().out


def test_the_printed_command__gives_the_same_arguments_and_chooses_nothing(folder, capsys):
    arguments = rewritten(["mine/source/squares.yaml", "seed=3"])
    say_offered()
    said = capsys.readouterr().out
    (line,) = [line for line in said.splitlines() if line.startswith("the same again: ufo train ")]
    again = shlex.split(line.removeprefix("the same again: ufo train "))
    assert sorted(again) == sorted(arguments)
    assert rewritten(again) == again
    assert not capsys.readouterr().out
    for word in ("backbone=", "resolution=", "max_positions=", "batch_size=", "trainer.max_steps="):
        assert word in said


@pytest.mark.parametrize(
    "refused", ["mask_points=-1", "trainer.max_steps=x", "sources.sq.weight=[", "nokey=1"]
)
def test_a_refused_command__is_not_offered_again(folder, capsys, monkeypatch, refused):
    quiet = ["hydra/job_logging=none", "hydra/hydra_logging=none"]  # the tests' own logging stays as it is
    monkeypatch.setattr("sys.argv", ["train.py", "mine/source/squares.yaml", *quiet, refused])
    with pytest.raises(SystemExit):
        train.train()
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ") and "the same again" not in printed.out
    say_offered()  # nothing is kept for another command of this process
    assert not capsys.readouterr().out


def test_a_command_whose_runs_are_elsewhere__is_offered_at_the_end(folder, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py", "mine/source/squares.yaml"])
    with own_files():
        assert "the same again" not in capsys.readouterr().out
    assert capsys.readouterr().out.count("the same again: ufo train ") == 1


def test_what_the_command_says_itself__is_not_chosen(folder):
    given = ["trainer.max_steps=7", "resolution=224", "init=null", "sources.sq.batch_size=2", "name=x"]
    arguments = rewritten(["mine/source/squares.yaml", *given])
    assert arguments[-len(given) :] == given
    for override in given:
        key = override.partition("=")[0]
        assert [a for a in arguments if a.lstrip("+").partition("=")[0] == key] == [override]


def test_the_learning_rate_of_a_backbone_that_the_command_names__is_not_chosen(folder):
    for given, chosen in (([], 1), (["backbone=ufo_vit_tiny"], 0)):
        arguments = rewritten(["mine/source/squares.yaml", *given])
        assert len([a for a in arguments if a.startswith("optimizer.lr=")]) == chosen


@pytest.mark.parametrize("told", ["mixture=own", "experiment=own"])
def test_a_named_mixture__is_what_is_trained(folder, told):
    arguments = rewritten(["mine/source/squares.yaml", told])
    assert arguments == ["--config-dir", "mine", "+source=[squares]", told]


def test_source_by_name__is_the_same(folder):
    by_name = rewritten(["--config-dir", "mine", "+source=squares"])
    by_file = rewritten(["mine/source/squares.yaml"])
    assert set(by_file) - set(by_name) == {"+source=[squares]"}


def test_other_commands__stay_as_they_are(folder):
    for arguments in (["experiment=digits", "seed=1"], ["--cfg", "job"], []):
        assert rewritten(arguments) == arguments


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("gone.yaml", None, "there is no file gone.yaml"),
        ("mine/source/squares.yml", None, "did you mean 'mine/source/squares.yaml'"),
        ("x/set.yaml", "train: {}\n", "describes no source"),
        ("x/README.md", "# hi", "x/README.md is no yaml; give the yaml of a source"),
        ("mine", None, "mine is a folder; give the yaml of a source"),
        ("a b/plain.yaml", YAML.format(head="", name="p", folder="."), "a folder called source"),
    ],
)
def test_files_that_are_no_source__are_refused(folder, file, text, message):
    if text is not None:
        (folder / file).parent.mkdir()
        (folder / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        rewritten([file])


@pytest.mark.slow
def test_train__a_file_alone(folder, capsys):
    few = ["trainer.max_steps=2", "trainer.accelerator=cpu", "num_workers=0", "init=null"]
    small = [*NETWORK, "tasks.detection.max_length=12", "sources.sq.batch_size=2"]
    run("train.py", str(folder / "mine/source/squares.yaml"), *few, *small, out=folder / "run")
    printed = capsys.readouterr().out
    assert "mAP" in printed and "pictures" in printed and "the same again: ufo train " in printed
    assert (folder / "run" / "model").is_dir()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: (text + "x: [").encode(), r"squares\.yaml is no yaml: while parsing"),
        (lambda text: (text + "x: !!python/name:os.system").encode(), r"squares\.yaml is no yaml: could not"),
        (lambda text: ("# Käuze\n" + text).encode("latin-1"), r"squares\.yaml is not UTF-8 text at byte 3"),
        (lambda text: text.encode("utf-16"), r"squares\.yaml is not UTF-8 text at byte 0"),
        (
            lambda text: text.replace("task: detection", "task: detektion").encode(),
            "no task 'detektion'; there",
        ),
    ],
)
def test_a_file_that_is_no_source__is_one_sentence(change, said, folder):
    path = folder / "mine" / "source" / "squares.yaml"
    path.write_bytes(change(path.read_text()))
    with pytest.raises(ValueError, match=said) as error:
        find([str(path)], [])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("annotations:", "anotations:", "sources.sq.dataset.train.anotations'; did you mean 'annotations'?"),
        ("  train:", "  trian:", "sources.sq.dataset.trian'; did you mean 'train'?"),
        ("task:", "weigth: 2\ntask:", "sources.sq.weigth'; did you mean 'weight'?"),
        ("task:", "batch_size: four\ntask:", "sources.sq.batch_size must be a whole number of at least 1"),
        ("_partial_: true", "_partial_: yes please", "_partial_ must be true or false, not 'yes please'"),
        ("train: true", "min_size: small", "`min_size` is a number of pixels, not 'small'"),
    ],
)
def test_a_mistyped_source__is_refused_before_its_data_are_read(old, new, said, folder):
    path = folder / "mine" / "source" / "squares.yaml"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises((ValueError, DataError)) as error:
        rewritten([str(path)])
    assert said in str(error.value) and "\n" not in str(error.value)


def test_settings_of_a_source_that_is_not_there__are_refused(folder):
    with pytest.raises(ValueError, match=r"no sources\.sk to give settings to.* sources are: sq|mean 'sq'"):
        rewritten(["mine/source/squares.yaml", "sources.sk.batch_size=4"])


def test_a_file_with_a_byte_order_mark__is_read(folder):
    path = folder / "mine" / "source" / "squares.yaml"
    path.write_bytes(path.read_text().encode("utf-8-sig"))
    assert find([str(path)], []).overrides == ["+source=[squares]"]


def test_a_file_that_a_config_of_the_project_hides__is_said(folder, monkeypatch, capsys):
    path = folder / "mine" / "source" / "squares.yaml"
    hidden = path.rename(path.with_name("coco_detection.yaml"))
    with pytest.raises(ValueError, match=r"has a source/coco_detection\.yaml .* as own_coco_detection"):
        find([str(hidden)], [])
    monkeypatch.setattr(sys, "argv", ["train.py", "--config-dir", "mine", "+source=coco_detection"])
    with clear_command_line():
        assert "mine/source/coco_detection.yaml is not read" in capsys.readouterr().err
    hidden.write_bytes((places.conf() / "source" / hidden.name).read_bytes())
    with clear_command_line():
        assert not capsys.readouterr().err  # the same file: nothing is lost


def test_sources_of_one_name_and_folders_that_are_none__are_said(folder):
    path = folder / "mine" / "source" / "squares.yaml"
    assert find([str(path), str(path)], []).overrides == ["+source=[squares]"]
    second = folder / "other" / "source" / "again.yaml"
    second.parent.mkdir()
    second.write_text(path.read_text())
    with pytest.raises(ValueError, match="are both the source 'sq'; give one of them another name"):
        find([str(path), str(second)], [])
    umlaut = path.rename(path.with_name("k\u00e4uze.yaml"))
    with pytest.raises(ValueError, match="name of plain letters"):
        find([str(umlaut)], [])
    for given in (["--config-dir", "nowhere"], [f"--config-dir={umlaut}"]):
        with pytest.raises(ValueError, match=r"--config-dir \S+ is not a folder"):
            find([], given)


@pytest.mark.parametrize(
    ("head", "default", "said"),
    [
        (
            "# @pakage _global_",
            "override /mixture: own",
            "first line of the yaml must be: # @package _global_",
        ),
        (
            "# @package _globl_",
            "override /mixture: own",
            "experiment/mine.yaml chooses a mixture below a key of",
        ),
        ("# @package _global_", "override mixture: own", "without a slash; write: override /mixture: ..."),
        ("# @package _global_", "/mixture: own", "override /mixture: own, in a command: mixture=own"),
    ],
)
def test_an_own_experiment_that_chooses_nothing__names_the_line(head, default, said, folder):
    path = folder / "mine" / "experiment" / "mine.yaml"
    path.parent.mkdir()
    path.write_text(f"{head}\ndefaults:\n  - {default}\n")
    with pytest.raises(CheckpointError) as error:
        recipes.compose([searched(folder / "mine"), "experiment=mine"])
    assert said in sentence(error.value.__cause__)
