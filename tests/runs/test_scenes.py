"""A trial draws no more scenes than it can look at, a whole run draws all; no folder changes another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import compose
from omegaconf import OmegaConf

from ufo.data.digits import generate
from ufo.runs.scenes import suffix, train_scenes, val_scenes

SOURCES = {"a": {"batch_size": 16}, "b": {"batch_size": 64, "weight": 0.0}, "c": None}


@pytest.mark.parametrize(
    ("trainer", "expected"),
    [
        ({"max_steps": 30}, 512),
        ({"max_steps": 30, "accumulate_grad_batches": 4}, 2048),
        ({"max_steps": 30, "devices": 2, "num_nodes": 2}, 2048),
        ({"max_steps": 30, "devices": [0, 1]}, 1024),
        ({"max_steps": 30, "devices": "auto"}, 512),
        ({"max_steps": 9000, "limit_train_batches": 4}, 256),
        ({"max_steps": 9000}, 24000),
        ({"max_steps": -1}, 24000),
        ({}, 24000),
    ],
)
def test_train_scenes__are_enough_for_all_batches(trainer, expected):
    assert train_scenes(24000, trainer, SOURCES) == expected


def test_val_scenes__are_those_of_the_batches():
    assert val_scenes(500, {"limit_val_batches": 2}, SOURCES) == 32
    assert val_scenes(500, {"limit_val_batches": 0}, SOURCES) == 16  # a source without any is refused
    assert val_scenes(500, {"limit_val_batches": 1.0}, SOURCES) == 500
    assert val_scenes(500, {}, SOURCES) == 500


def test_folders__of_fewer_scenes_have_other_names():
    assert suffix(24000, 24000, 500, 500) == ""
    assert suffix(512, 24000, 500, 500) != suffix(1024, 24000, 500, 500) != suffix(1024, 24000, 32, 500)


def test_config__of_a_trial_and_of_a_whole_run():
    trial = compose("experiment=digits", "trainer.max_steps=30", "+trainer.limit_val_batches=1")
    largest = max(source.val_batch_size for source in trial.sources.values())
    assert (trial.prepare.digits.train, trial.prepare.digits.val) == (512, largest)
    assert trial.sources.detection.dataset.train.images.startswith(trial.prepare.digits.out + "/")
    whole = compose("experiment=digits")
    assert (whole.prepare.digits.train, whole.prepare.digits.val) == (24000, 500)
    assert Path(whole.prepare.digits.out).name == "digits" != Path(trial.prepare.digits.out).name
    explicit = compose("experiment=digits", "trainer.max_steps=30", "prepare.digits.train=24000")
    assert explicit.prepare.digits.out == whole.prepare.digits.out


def test_config__of_a_run_that_goes_on_keeps_its_scenes(tmp_path):
    words = ("experiment=digits", f"paths.runs={tmp_path}", "name=trial")
    trial = compose(*words, "trainer.max_steps=30")
    (tmp_path / "trial").mkdir()
    begun = {"prepare": OmegaConf.to_container(trial.prepare, resolve=True)}
    OmegaConf.save(begun, tmp_path / "trial" / "config.yaml")
    longer = compose(*words, "trainer.max_steps=3000")
    assert longer.prepare.digits.train == begun["prepare"]["digits"]["train"] == 512
    assert longer.prepare.digits.out == begun["prepare"]["digits"]["out"]
    for other in ("resume=never", "name=other", "prepare.digits.train=24000"):
        assert compose(*words, "trainer.max_steps=3000", other).prepare.digits.train == 24000
    (tmp_path / "trial" / "config.yaml").write_text("{")
    assert compose(*words, "trainer.max_steps=3000").prepare.digits.train == 24000


@pytest.mark.parametrize("experiment", ["digits", "digits_and_shapes", "digits_all", "digits_generalised"])
def test_config__draws_what_is_needed_of_everything_that_is_prepared(experiment):
    """An evaluation no training scenes, a trial few of each kind, a whole run all."""
    words = (f"experiment={experiment}",)
    evaluated = compose(*words, "ckpt=x", config="evaluate").prepare.values()
    trial = compose(*words, "trainer.max_steps=1", "+trainer.limit_val_batches=1").prepare.values()
    for known, few, whole in zip(evaluated, trial, compose(*words).prepare.values(), strict=True):
        assert 0 == known.train < few.train < whole.train
        assert few.val < whole.val == known.val
        assert len({str(part.out) for part in (known, few, whole)}) == 3


def test_config__of_an_evaluation_draws_the_training_scenes_that_it_evaluates():
    own = compose("experiment=digits", "ckpt=x", "+evaluated_split=train", config="evaluate")
    assert own.prepare.digits.train == 24000


def test_scenes__of_a_trial_are_the_first_ones_of_a_longer_run(tmp_path):
    few = generate(tmp_path / "few", train=3, val=1, workers=1, progress=False)
    more = generate(tmp_path / "more", train=5, val=2, workers=1, progress=False)
    for split in ("train", "val"):
        for path in sorted((few / split).glob("*/*.*g")):
            assert path.read_bytes() == (more / path.relative_to(few)).read_bytes()
        for key in ("images", "annotations"):
            a, b = (json.loads((f / split / "instances.json").read_text())[key] for f in (few, more))
            assert a == b[: len(a)]
