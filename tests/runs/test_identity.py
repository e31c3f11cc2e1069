"""What makes a run another one is found and named; what may change is not."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from commands import NETWORK, QUICK, TASKS, batches, compose, resolution

from ufo import build
from ufo.checkpoints.errors import CheckpointError
from ufo.runs import identity

SMALL = [*NETWORK, *QUICK, *resolution(56, 56), *batches(2, *TASKS)]


@pytest.fixture(scope="module")
def of(scenes):
    """The identity of the run with these overrides, without its weights."""

    def describe(*overrides: str) -> dict:
        cfg = compose(*SMALL, *scenes, *overrides)
        data = build.build_data(cfg)
        data.prepare_data()
        model = build.build_model(cfg)
        model.classes = build.class_names(data, model)
        return identity.describe(cfg, model, data)

    return describe


@pytest.fixture(scope="module")
def run(of) -> dict:
    return of()


def test_it_is_the_same_again_and_survives_json(of, run, tmp_path):
    identity.write(run, tmp_path)
    assert identity.read(tmp_path) == run == of()


@pytest.mark.parametrize(
    "free",
    [
        ["trainer.max_steps=900"],
        ["trainer.devices=2", "num_workers=1", "trainer.precision=bf16-mixed"],
        ["logger=csv", "trainer.val_check_interval=7", "callbacks.checkpoint.every_n_train_steps=3"],
        ["sources.caption.batch_size=1", "sources.caption.val_batch_size=3"],
        ["backbone.network.gradient_checkpointing=true", "compile=true", "cuda_graphs=true", "name=other"],
        ["triton_attention=true"],
        ["++tasks.detection.num_beams=3", "++tasks.detection.max_per_image=7"],
        # the code's own defaults, written out
        ["sources.caption.weight=1.0", "++schedule.warmup_steps=0", "++tasks.detection.repeat=3"],
        ["++optimizer.fused=true"],
        ["++trainer.gradient_clip_algorithm=norm", "trainer.accumulate_grad_batches=2"],
        ["++optimizer.eps=1e-8", "++backbone.network.query_update_at_global=never"],
    ],
)
def test_what_may_change_is_no_difference(free, of, run):
    assert identity.differences(run, of(*free)) == []


def test_a_run_recorded_with_another_kind_of_step_goes_on(run):
    for optimizer in ({**run["optimizer"], "fused": True}, {**run["optimizer"], "foreach": None}):
        assert identity.differences({**run, "optimizer": optimizer}, run) == []
    without = {key: value for key, value in run.items() if key != "optimizer"}
    assert identity.differences(without, run) == []


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ("optimizer.lr=5e-3", "optimizer.lr was 0.0002, and is 0.005"),
        ("optimizer.betas=[0.9,0.95]", "optimizer.betas"),
        ("++schedule.warmup_steps=7", "schedule.warmup_steps was 0, and is 7"),
        ("loss_weights.dice=3", "loss_weights.dice was 1.0, and is 3"),
        ("mask_points=16", "mask_points was 32, and is 16"),
        ("++backbone.network.drop_path_rate=0.3", "backbone.drop_path_rate"),
        ("sources.caption=null", "trained on digits/detection"),
        ("sources.caption.weight=3", "weight was 1.0, and is 3"),
        ("+sources.caption.max_samples=3", "training samples, and now has 3"),
        ("++tasks.detection.samples_per_window=1", "tasks.detection.samples_per_window"),
        ("trainer.gradient_clip_val=1", "trainer.gradient_clip_val was 0.1, and is 1"),
        ("trainer.gradient_clip_val=null", "trainer.gradient_clip_val was 0.1, and is nothing"),
        ("++trainer.gradient_clip_algorithm=value", "trainer.gradient_clip_algorithm was norm"),
        ("seed=4", "seed was 0, and is 4"),
        ("init=weights/somewhere", "init was nothing, and is weights/somewhere"),
    ],
)
def test_what_may_not_change_is_named(other, said, of, run):
    assert said in "; ".join(identity.differences(run, of(other)))


def test_the_sentence_names_the_ways_out(run, tmp_path):
    other = copy.deepcopy(run)
    other["optimizer"]["lr"] = 1.0
    identity.check_same(run, run, tmp_path)
    with pytest.raises(CheckpointError, match=r"optimizer\.lr was .*name=.*resume=never.*init=") as error:
        identity.check_same(other, run, tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("strange", [{}, {"sources": {"digits/caption": 1}}, {"sources": 3}, {"classes": []}])
def test_a_record_that_cannot_be_read_stops_nothing(strange, run, tmp_path):
    if strange.get("sources") != {"digits/caption": 1}:
        identity.check_same(run, strange, tmp_path)
    (tmp_path / identity.FILE).write_text("[" * 5000)
    assert identity.read(tmp_path) is None


def test_classes_are_named(run):
    other = copy.deepcopy(run)
    other["classes"]["detection"] = ["truck", "bus"]
    (said,) = identity.differences(run, other)
    assert said.startswith("detection had the classes ") and "truck, bus" in said


def files(folder: Path, text: str) -> dict:
    folder.mkdir(exist_ok=True)
    (folder / "a.json").write_text(text)
    return dict(identity._settings({"annotations": f"{folder}/a.json", "images": str(folder), "train": True}))


def test_files_are_known_by_their_content_and_not_by_their_place(tmp_path):
    one, moved, other = files(tmp_path / "1", "x"), files(tmp_path / "2", "x"), files(tmp_path / "3", "y")
    assert one == moved != other
    assert set(one) == {"annotations", "train"}


def test_a_large_file_is_known_by_its_ends(tmp_path):
    path = tmp_path / "large"
    content = bytearray(3 * identity.PART)
    digests = set()
    for place in (None, 0, len(content) - 1):
        if place is not None:
            content[place] ^= 1
        path.write_bytes(content)
        digests.add(identity.file_digest(path, whole=10))
    assert len(digests) == 3


def test_an_identity_is_plain_json(run):
    assert json.loads(json.dumps(run)) == run
