"""Bad input: one line that says what to do instead, exit code 1, before anything is trained."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path

import pytest
import torch
from commands import NETWORK, QUICK, batches, command, run
from hydra.errors import HydraException
from official_files import write_official
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationKeyError
from sharing import shared

from ufo.checkpoints.load import save
from ufo.command_line import clear_command_line
from ufo.errors import sentence
from ufo.hub import is_unreachable

ONE = [f"sources.{task}=null" for task in ("detection", "instance_segmentation", "semantic_segmentation")]
ONE += ["sources.grounding=null"]  # captions only: quick to read
SMALL = [*NETWORK, *QUICK, *batches(2, "caption")]


@pytest.fixture(scope="session")
def other_model(make_model, tmp_path_factory) -> Path:
    """A model folder of another width, patch size and vocabulary."""
    return save(make_model(), tmp_path_factory.mktemp("other") / "model")


@pytest.fixture(scope="session")
def checkpoint(scenes, tmp_path_factory) -> Path:
    """The `.ckpt` of two training steps on captions."""

    def train(out: Path) -> None:
        run("train.py", *SMALL, *scenes, *ONE, "logger=none", out=out)

    return shared(tmp_path_factory, "captions_only", train) / "checkpoints" / "last.ckpt"


@pytest.fixture
def refused(capfd, tmp_path):
    """Run a script that must stop with one line on stderr; returns that line."""

    def check(script: str, *overrides: str) -> str:
        out = tmp_path / "run"
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            run(script, *overrides, out=out)
        lines = capfd.readouterr().err.splitlines()
        assert stop.value.code == 1
        assert len(lines) == 1 and lines[0].startswith("error: "), lines
        assert not (out / "checkpoints").exists() and not (out / "model").exists()
        return lines[0]

    return check


# ---------------------------------------------------------------- keys that nothing reads


@pytest.fixture
def experiment(tmp_path):
    """An experiment of the user's own; the overrides that choose it."""

    def write(text: str, first: str = "# @package _global_") -> list[str]:
        folder = tmp_path / "own" / "experiment"
        folder.mkdir(parents=True)
        (folder / "mine.yaml").write_text(f"{first}\n{text}\n")
        return [f"hydra.searchpath=[file://{folder.parent}]", "experiment=mine"]

    return write


@pytest.mark.parametrize(
    "text, wrong, instead",
    [
        ("optimiser: {lr: 1}", "optimiser", "optimizer"),
        ("optimizer: {learning_rate: 1}", "optimizer.learning_rate", "keys are: amsgrad, betas"),
        ("schedule: {warmup_step: 5}", "schedule.warmup_step", "warmup_steps"),
        ("trainer: {max_step: 5}", "trainer.max_step", "max_steps"),
        ("backbone: {network: {widht: 32}}", "backbone.network.widht", "width"),
        ("backbone: {netwrok: {width: 32}}", "backbone.netwrok", "network"),
        ("resolution: {captions: 112}", "resolution.captions", "caption"),
        ("tasks: {detection: {bins: 5}}", "tasks.detection.bins", "num_bins"),
        ("prepare: {digits: {trian: 5}}", "prepare.digits.trian", "train"),
        ("sources: {caption: {transform: {test: null}}}", "sources.caption.transform.test", "train, val"),
        ("loss_weights: {box: 1}", "loss_weights.box", "dice, focal, token"),
        ("callbacks: {pictures: {number: 5}}", "callbacks.pictures.number", "num_images"),
    ],
)
def test_a_key_that_nothing_reads(refused, experiment, text, wrong, instead):
    line = refused("train.py", *experiment(text))
    assert f"nothing reads the config key '{wrong}'" in line
    assert instead in line


@pytest.mark.parametrize(
    ("first", "key"),
    [("# @package _gloabl_", "_gloabl_"), ("# @pakage _global_", "experiment"), ("", "experiment")],
)
def test_a_yaml_whose_first_line_is_misspelt(refused, experiment, first, key):
    """Hydra puts its keys below another one."""
    line = refused("train.py", *experiment("trainer: {max_steps: 5}", first))
    assert f"nothing reads 'trainer' below the config key '{key}'" in line
    assert line.endswith("must be: # @package _global_")


def test_a_source_takes_no_other_setting(refused, experiment):
    line = refused("train.py", *experiment("sources: {caption: {weigth: 2}}"))
    assert "weigth" in line


@pytest.mark.parametrize("samples", [0, 10])
def test_more_queries_than_a_window_has(refused, samples, tmp_path):
    few = ["tasks.detection.grid_per_window=3", f"tasks.detection.samples_per_window={samples}"]
    line = refused("train.py", *few, f"prepare.digits.out={tmp_path / 'scenes'}")
    assert f"samples_per_window={samples}" in line and "take 1 to 9" in line
    assert not (tmp_path / "scenes").exists()


def test_settings_of_an_experiment_for_another_mixture(refused):
    line = refused("train.py", "experiment=digits", "mixture=coco_caption")
    assert "no tasks.detection to give settings to" in line and "experiment=digits may: leave it out" in line


def test_a_class_that_is_not_there(refused):
    line = refused("train.py", "optimizer._target_=torch.optim.AdamX")
    assert "optimizer" in line and "torch.optim.AdamX" in line


@pytest.mark.parametrize(
    "override, wrong, instead",
    [
        ("experiment=digitz", "no experiment 'digitz'", "did you mean 'digits'?"),
        ("experimnt=digits", "no key 'experimnt'", "did you mean 'experiment'?"),
        ("backbone=resnet", "no backbone 'resnet'", "there are: internvl"),
        ("resolution=113", "no resolution '113'", "did you mean '112'?"),
        ("hydra/launcher=slurm", "no hydra/launcher 'slurm'", "submitit_slurm"),
        ("seeed=1", "no key 'seeed'", "did you mean 'seed'?"),
        ("optimizer.lrr=1", "config key 'optimizer.lrr'", "did you mean 'lr'?"),
        ("trainer.detect_anomally=1", "config key 'trainer.detect_anomally'", "'detect_anomaly'"),
        ("seed", "cannot read 'seed'", "key=value"),
        ("optimizer.lr=[1", "cannot read 'optimizer.lr=[1'", "key=value"),
        ("name=K\u00e4uze", "cannot read 'name=K\u00e4uze'", "in quotes of its own: \"name='K\u00e4uze'\""),
        ("name=", "name= is no name of a run", "as name=first"),
        ("seed=1,2", "seed=1,2", "add --multirun"),
        ("~callbacks.pics", "'callbacks.pics' does not exist", ""),
    ],
)
@pytest.mark.parametrize("script", ["train.py", "evaluate.py"])
def test_a_name_that_hydra_refuses(refused, monkeypatch, script, override, wrong, instead):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    line = refused(script, override)
    assert wrong in line and instead in line
    assert "HYDRA_FULL_ERROR" not in os.environ and "UFO_COMPOSES" not in os.environ


@pytest.mark.parametrize("script", ["train.py", "evaluate.py"])
def test_ways_of_decoding_that_exclude_each_other(refused, script):
    line = refused(script, "++tasks.detection.num_beams=3", "++tasks.detection.top_tokens=2")
    assert "task 'detection': num_beams=3 and top_tokens=2 exclude each other" in line


def test_an_evaluation_of_nothing(refused):
    assert "does not say ckpt; add ckpt=runs/NAME" in refused("evaluate.py")


def test_a_near_key_is_the_only_hint(refused):
    assert refused("train.py", "trainer.max_step=5").endswith("did you mean 'max_steps'?")


@pytest.mark.parametrize(
    ("short", "whole"),
    [
        ("lr", "optimizer.lr"),
        ("batch_size", "sources.detection.batch_size"),
        ("max_steps", "trainer.max_steps"),  # and not the schedule's, which repeats it
        ("epochs", "trainer.max_steps"),
        ("imgsz", "resolution"),
    ],
)
def test_a_key_without_what_it_belongs_to(refused, short, whole):
    assert refused("train.py", f"{short}=7").endswith(f"no key '{short}'; did you mean '{whole}'?")


def test_a_path_without_its_key(refused, tmp_path):
    assert refused("evaluate.py", str(tmp_path)).endswith(f"what is scored is written ckpt={tmp_path}")


def test_a_task_that_the_mixture_does_not_have_is_added_by_its_option(refused):
    line = refused("train.py", "mixture=own", "+source=digits_reasoning_segmentation")
    assert line.endswith("; add +task@tasks.reasoning_segmentation=reasoning_segmentation")
    line = refused("train.py", "trainer.max_steps=${tasks.point.image_size}")
    assert "add +task@tasks.point=point, or the mixture= that has it" in line


def test_a_reference_to_nothing(refused):
    line = refused("train.py", "trainer.max_steps=${nowhere}")
    assert "takes nowhere, which nothing sets" in line


@pytest.mark.parametrize("script", ["train.py", "evaluate.py"])
def test_a_reference_with_dots_to_nothing_is_named_whole(refused, scenes, checkpoint, script):
    ckpt = [f"ckpt={checkpoint}", "experiment=digits"] if script == "evaluate.py" else []
    override = "sources.caption.dataset.val.annotations=${..foldr}/f.json"
    line = refused(script, *scenes, *ONE, *ckpt, override)
    assert f"{override} takes sources.caption.dataset.foldr, which nothing sets" in line
    assert line.endswith("write the value itself, or add +sources.caption.dataset.foldr=...")


@pytest.mark.parametrize(
    ("value", "meant"),
    [("${..x}", "a.x"), ({"c": "${...x}"}, "a.x"), ({"c": "${.x}"}, "a.b[0].x")],
)
def test_a_reference_in_a_list_is_named_whole_too(value, meant):
    """A place in a list is a step of its own."""
    config = OmegaConf.create({"a": {"b": [value]}})
    with pytest.raises(InterpolationKeyError) as error:
        OmegaConf.to_container(config, resolve=True)
    assert f" takes {meant}, which nothing sets" in sentence(error.value)


@pytest.mark.parametrize("script", ["train.py", "evaluate.py"])
def test_a_reference_in_an_override_is_to_the_config(refused, scenes, checkpoint, script):
    """Hydra keeps the overrides in a list of its own, where there is nothing to refer to."""
    ckpt = [f"ckpt={checkpoint}", "experiment=digits"] if script == "evaluate.py" else []
    line = refused(
        script, *scenes, *ONE, *ckpt, "sources.caption.dataset.val.annotations=${..folder}/gone.json"
    )
    assert "gone.json" in line and "${" not in line and "which nothing sets" not in line


def test_all_of_an_error_is_shown_on_demand(monkeypatch, tmp_path):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(HydraException, match="digitz"):
        run("train.py", "experiment=digitz", out=tmp_path)


# ---------------------------------------------------------------- data


def test_a_task_that_a_data_set_cannot_serve(refused, scenes):
    line = refused("train.py", *SMALL, *scenes, *ONE, "sources.caption.task=detection")
    assert "the task 'detection' needs boxes, labels" in line and "they have: caption" in line


def test_a_task_that_the_mixture_does_not_define(refused):
    line = refused("train.py", "sources.caption.task=poetry")
    assert "source 'caption'" in line and "'poetry'" in line and "it has: detection" in line


def test_a_missing_folder(refused, tmp_path):
    line = refused("train.py", "mixture=five_task", f"paths.data={tmp_path}/none", *NETWORK)
    assert f"{tmp_path}/none/coco/train2017 does not exist" in line and "set" in line


def test_a_missing_file(refused, tmp_path):
    data = write_official(tmp_path / "data")
    (data / "coco_2014" / "refcoco+" / "refs(unc).p").unlink()
    line = refused("train.py", "mixture=five_task", f"paths.data={data}", *NETWORK)
    assert "refcoco+/refs(unc).p does not exist" in line


def test_scenes_of_other_options(refused, scenes):
    line = refused("train.py", *scenes, "prepare.digits.train=25")
    assert "train=24 instead of train=25" in line and "choose another folder" in line


def test_a_vocabulary_that_is_not_there(refused):
    line = refused("train.py", "backbone.tokenizer.name_or_path=no/such-vocabulary")
    assert "no/such-vocabulary" in line and "give its path" in line


# ---------------------------------------------------------------- sizes


def test_a_resolution_that_the_window_does_not_divide(refused, scenes):
    line = refused("train.py", *SMALL, *scenes, "resolution.detection=100")
    assert "100" in line and "multiple of 56" in line
    line = refused("train.py", *SMALL, *scenes, "resolution.caption=100")
    assert "100x100" in line and "for example 112" in line


@pytest.mark.parametrize("argument", ["resolution=1120", "+resolution=1120"])
def test_a_resolution_is_named_by_a_bare_number(monkeypatch, argument):
    monkeypatch.setattr("sys.argv", ["train.py", argument, "resolution.caption=224", "seed=1"])
    with clear_command_line("resolution"):
        pass
    assert sys.argv == ["train.py", argument.replace("1120", "'1120'"), "resolution.caption=224", "seed=1"]


def test_a_bare_number_composes(capfd, tmp_path):
    run("train.py", "resolution=1120", "--cfg", "job", "--package", "resolution", out=tmp_path)
    assert "semantic_segmentation: 672" in capfd.readouterr().out


# ---------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("key", ["init", "resume"])
def test_weights_of_another_architecture(refused, scenes, other_model, checkpoint, key):
    path = other_model if key == "init" else checkpoint
    line = refused("train.py", *SMALL, *scenes, *ONE, f"{key}={path}", "backbone.network.width=64")
    theirs = 16 if key == "init" else 32
    assert str(path) in line
    assert f"width={theirs} there, 64 here" in line
    assert line.count("UFOViT") == 2


def test_weights_of_another_vocabulary(refused, scenes, checkpoint, tmp_path):
    vocab = tmp_path / "vocab.txt"
    words = (Path("conf/vocab/general.txt")).read_text().split("\n")
    vocab.write_text("\n".join([words[0], words[1], *words[2:-1][::-1]]) + "\n")
    other = ("strict_init=true", f"backbone.tokenizer.name_or_path={vocab}")
    line = refused("train.py", *SMALL, *scenes, *ONE, f"init={checkpoint}", *other)
    assert "another vocabulary" in line


@pytest.mark.parametrize("key", ["init", "resume", "ckpt"])
@pytest.mark.parametrize("damage", ["missing", "cut short", "malicious", "something else"])
def test_a_checkpoint_that_cannot_be_used(refused, scenes, checkpoint, tmp_path, key, damage):
    path = tmp_path / "damaged.ckpt"
    witness = tmp_path / "executed"
    if damage == "cut short":
        path.write_bytes(checkpoint.read_bytes()[:-1000])
    elif damage == "malicious":
        torch.save({"ufo": {}, "state_dict": {}, "code": Malicious(str(witness))}, path)
        assert pickle.dumps(Malicious(""))  # it is what a pickle can hold
    elif damage == "something else":
        torch.save({"weights": torch.zeros(3)}, path)
    script = "evaluate.py" if key == "ckpt" else "train.py"
    line = refused(script, *SMALL, *scenes, *ONE, f"{key}={path}")
    assert str(path) in line
    assert not witness.exists()
    words = {"missing": "no checkpoint", "cut short": "cut short", "malicious": "nothing was run"}
    assert words.get(damage, "checkpoint") in line


class Malicious:
    """Runs a command when it is unpickled carelessly."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_start_that_cannot_be_had_is_told_before_data_are_made(refused, tmp_path):
    data = [f"prepare.digits.out={tmp_path / 'scenes'}", "prepare.digits.train=4", "prepare.digits.val=2"]
    line = refused("train.py", *SMALL, *data, *ONE, "init=sam")
    assert "no SAM of width 32" in line and line.endswith("on purpose: init=null")
    assert "no checkpoint at init=" in refused("train.py", *SMALL, *data, *ONE, f"init={tmp_path / 'gone'}")
    assert not (tmp_path / "scenes").exists()


def test_a_name_of_the_hub_that_cannot_be_had_is_one_sentence(refused, scenes, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    is_unreachable.cache_clear()
    data = [f"prepare.digits.out={tmp_path / 'scenes'}", "prepare.digits.train=4", "prepare.digits.val=2"]
    for line in (
        refused("train.py", *SMALL, *data, *ONE, "init=nobody/nothing@v1.0"),
        refused("evaluate.py", *scenes, "ckpt=nobody/nothing@v1.0"),
    ):
        assert "'nobody/nothing@v1.0'" in line and "nothing was downloaded before" in line
    is_unreachable.cache_clear()
    assert not (tmp_path / "scenes").exists()


def test_weights_do_not_resume_a_training(refused, scenes, other_model):
    line = refused("train.py", *SMALL, *scenes, *ONE, f"resume={other_model}")
    assert f"init={other_model}" in line


def test_evaluation_needs_a_checkpoint(refused, scenes):
    assert "ckpt" in refused("evaluate.py", *scenes)


def test_evaluation_at_another_resolution(refused, scenes, checkpoint):
    line = refused("evaluate.py", *scenes, *ONE, f"ckpt={checkpoint}", "resolution.caption=224")
    assert "caption at 112 px" in line and "224" in line and "resolution=" in line


@pytest.mark.slow
def test_a_process_of_its_own_says_no_more(tmp_path):
    """What a shell shows: nothing that the tests above would miss because they share a process."""
    done = command("train.py", "sources.caption.task=poetry", out=tmp_path)
    assert done.returncode == 1
    assert done.stdout == "" and done.stderr.count("\n") == 1 and done.stderr.startswith("error: ")
