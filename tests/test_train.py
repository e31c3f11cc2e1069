"""train.py and evaluate.py as a user runs them: all five tasks, resumed, evaluated, with every option."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from commands import (
    HEADLINES,
    NETWORK,
    QUICK,
    SHIPPED,
    SHIPPED_RUN,
    TASKS,
    batches,
    command,
    forked,
    metrics,
    needs_weights,
    resolution,
    run,
)
from safetensors.torch import load_file
from sharing import shared
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

pytestmark = pytest.mark.slow

SMALL = [*NETWORK, *QUICK, *resolution(56, 56), *batches(2, *TASKS, evaluated=8)]
SIX_STEPS = [
    "trainer.max_steps=6",
    "trainer.val_check_interval=3",
    "callbacks.checkpoint.every_n_train_steps=2",
]


@pytest.fixture(scope="module")
def straight(scenes, tmp_path_factory) -> Path:
    """The folder of six undisturbed steps on all five tasks."""

    def train(out: Path) -> None:
        done = command("train.py", *SMALL, *SIX_STEPS, *scenes, out=out)
        assert done.returncode == 0, done.stderr
        assert f"model: {out / 'model'}" in done.stdout

    return shared(tmp_path_factory, "six_steps", train)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def test_a_run_leaves_metrics_pictures_and_a_record(straight):
    found = metrics(straight)
    for name in (
        "detection/mAP",
        "instance_segmentation/mAP",
        "semantic_segmentation/mIoU",
        "caption/BLEU-4",
    ):
        assert math.isfinite(found[f"val/digits/{name}"])
    assert math.isfinite(found["val/digits/grounding/Acc@0.5"])
    pictures = {p.relative_to(straight / "pictures").as_posix() for p in straight.glob("pictures/*/*.png")}
    assert pictures == {f"step_{step:06d}/digits_{task}.png" for step in (3, 6) for task in TASKS}
    for name in ("run.json", "config.yaml", "checkpoints/last.ckpt", "checkpoints/step_6.ckpt"):
        assert (straight / name).is_file(), name


def test_tensorboard_shows_the_same(straight):
    events = EventAccumulator(str(straight / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    tags = events.Tags()
    assert set(metrics(straight)) <= set(tags["scalars"])
    assert {f"val/digits/{task}/pictures" for task in TASKS} <= set(tags["images"])
    for name, value in metrics(straight).items():
        assert events.Scalars(name)[-1].value == pytest.approx(value)
        assert [event.step for event in events.Scalars(name)] == [2, 5]


def test_a_killed_run_goes_on_to_the_same_weights(straight, scenes, tmp_path):
    """Killed in the midst of its fourth step, two steps after the last checkpoint but one batch."""
    kill = "+callbacks.kill={_target_: commands.KillOnce, step: 3, marker: " + f"{tmp_path}/killed" + "}"
    arguments = [*SMALL, *SIX_STEPS, *scenes, kill]
    assert forked("train.py", *arguments, out=tmp_path / "run").codes == [-9]
    assert not (tmp_path / "run" / "model").exists()
    again = forked("train.py", *arguments, out=tmp_path / "run")
    assert again.codes == [0], again.text
    ours, theirs = weights(tmp_path / "run"), weights(straight)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert metrics(tmp_path / "run") == metrics(straight)


def test_a_finished_run_is_extended_without_losing_its_log(straight, scenes, tmp_path):
    """Three steps, then the same folder up to six: the last checkpoint is not one of the regular ones."""
    for steps in (3, 6):
        run("train.py", *SMALL, *SIX_STEPS, *scenes, f"trainer.max_steps={steps}", out=tmp_path)
        # another length is another cosine, so only the first three steps are those of `straight`
        assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == steps
    logs = sorted((tmp_path / "csv").rglob("metrics.csv"))
    assert len(logs) == 2
    assert "train/digits" in logs[0].read_text().splitlines()[0]


@pytest.mark.parametrize("ckpt", ["model", "."])
def test_evaluation_reproduces_the_last_validation(straight, scenes, tmp_path, capfd, ckpt):
    run("evaluate.py", f"ckpt={straight / ckpt}", *SMALL, *scenes, out=tmp_path)
    assert metrics(tmp_path) == metrics(straight)
    printed = [line.split() for line in capfd.readouterr().out.splitlines()]
    for name, value in metrics(straight).items():
        assert [name, f"{value:.4f}"] in printed
    page = (tmp_path / "report.html").read_text()
    assert all(f"<h2>digits/{task}</h2>" in page for task in TASKS)


@needs_weights
def test_evaluation_reproduces_the_validation_of_a_model_that_has_learnt(scenes, tmp_path):
    """As above where the metrics are not those of a model that says nothing."""
    settings = [*SHIPPED_RUN, *scenes, *batches(4, *TASKS), "+trainer.limit_val_batches=1"]
    run("train.py", *settings, f"init={SHIPPED}", out=tmp_path / "run")
    run("evaluate.py", *settings, f"ckpt={tmp_path / 'run'}", out=tmp_path / "evaluation")
    found = metrics(tmp_path / "evaluation")
    assert found == metrics(tmp_path / "run")
    for name, metric in HEADLINES.items():
        assert found[f"val/digits/{name}/{metric}"] > 0.05, name


def test_evaluation_depends_neither_on_batch_size_nor_on_the_config_s_network(straight, scenes, tmp_path):
    """The checkpoint brings its own architecture; the config brings data and metrics."""
    settings = [*QUICK, *resolution(56, 56), *batches(5, *TASKS), *scenes]
    run("evaluate.py", f"ckpt={straight}", *settings, out=tmp_path)
    assert metrics(tmp_path) == pytest.approx(metrics(straight), abs=1e-6)


def test_every_option_of_training_at_once(scenes, tmp_path):
    options = [
        "callbacks=[default,ema]",
        "++callbacks.ema.decay=0.5",
        "trainer.accumulate_grad_batches=2",
        "trainer.precision=bf16-mixed",
        "backbone.network.gradient_checkpointing=true",
        "backbone.network.drop_path_rate=0.1",
        "backbone.network.text_dropout=0.1",
        "trainer.gradient_clip_val=1.0",
        "trainer.val_check_interval=4",
    ]
    for steps in (2, 4):
        run("train.py", *SMALL, *scenes, *options, f"trainer.max_steps={steps}", out=tmp_path)
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 4
    assert state["UFODataModule"]["step"] == 8  # batches
    losses = metrics(tmp_path, "train/")
    assert losses and all(map(math.isfinite, losses.values()))
    assert len(list(tmp_path.glob("pictures/*/*.png"))) == 2 * len(TASKS)
    average, saved = state["state_dict"], weights(tmp_path)
    assert all(torch.equal(average[f"model.{name}"], saved[name]) for name in saved)


def test_wandb_works_without_an_account(scenes, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    done = forked("train.py", *SMALL, *scenes, "logger=wandb", out=tmp_path)
    assert done.codes == [0], done.text
    (offline,) = (tmp_path / "wandb").glob("offline-run-*")
    assert any(offline.glob("*.wandb"))
    media = {p.relative_to(offline / "files" / "media").parts[0] for p in offline.rglob("files/media/**/*.*")}
    assert {"images", "table"} <= media
    assert metrics(tmp_path)
