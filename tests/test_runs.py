"""Folders of runs as a user meets them: another run is refused, a finished one stays."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from commands import NETWORK, QUICK, TASKS, batches, forked, metrics, resolution

from ufo.runs import owner, results

pytestmark = pytest.mark.slow

OFTEN = ["callbacks.checkpoint.every_n_train_steps=1", "callbacks.checkpoint.save_top_k=-1"]
# one task, so that a start takes seconds
ALONE = [f"sources.{task}=null" for task in TASKS if task != "caption"]
RUN = [
    *NETWORK,
    *QUICK,
    *resolution(56, 56),
    *batches(2, "caption", evaluated=8),
    *ALONE,
    "~callbacks.pictures",
    "~callbacks.worst",
    "logger=csv",
    "trainer.val_check_interval=1000",
]


@pytest.fixture(scope="module")
def finished(scenes, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("finished")
    done = forked("train.py", *RUN, *scenes, out=out)
    assert done.codes == [0], done.text
    assert "val/digits/caption/BLEU-4" in done.text and "Tip:" not in done.text
    assert "weights_only" not in done.text and "deprecated" not in done.text
    return out


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a run but its log."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and p.suffix != ".log"
    }


def test_a_short_run_shows_a_result(finished):
    found = results.read(finished)
    assert found["step"] == 2 and found["measured"] == pytest.approx(metrics(finished), abs=1e-6)
    assert "val/digits/caption/BLEU-4" in (finished / "results.md").read_text()


@pytest.mark.parametrize(
    "other", ["optimizer.lr=5e-3", "sources.caption.weight=2", "seed=3", "mask_points=16"]
)
def test_another_run_is_refused_and_changes_nothing(other, finished, scenes):
    before = content(finished)
    done = forked("train.py", *RUN, *scenes, other, "trainer.max_steps=4", out=finished)
    assert done.codes == [1] and "Traceback" not in done.text
    (line,) = [line for line in done.text.splitlines() if line.startswith("error:")]
    assert other.split("=")[0].split(".")[-1] in line
    assert all(way in line for way in ("name=", "resume=never", "init="))
    assert content(finished) == before


def test_a_finished_run_stays_as_it_is(finished, scenes):
    before = content(finished)
    done = forked("train.py", *RUN, *scenes, "num_workers=1", out=finished)
    assert done.codes == [0] and "nothing left to train" in done.text, done.text
    after = content(finished)
    for name in ("model/model.safetensors", "config.yaml", "run.json", "checkpoints/last.ckpt"):
        assert after[name] == before[name], name
    assert json.loads(after["status.json"])["state"] == "finished"


def test_a_finished_run_in_another_folder_can_go_on_there(finished, scenes, tmp_path):
    done = forked("train.py", *RUN, *scenes, f"resume={finished}", out=tmp_path)
    assert done.codes == [0] and "nothing left to train" in done.text, done.text
    before, after = content(finished), content(tmp_path)
    for name in ("model/model.safetensors", "checkpoints/last.ckpt", "identity.json"):
        assert after[name] == before[name], name


def test_evaluation_scores_the_data_of_the_run(finished, tmp_path):
    quick = [
        o
        for o in QUICK
        if o.startswith(("num_workers", "trainer.acc", "trainer.dev", "+trainer", "~callbacks"))
    ]
    done = forked("evaluate.py", f"ckpt={finished}", *quick, "logger=csv", out=tmp_path)
    assert done.codes == [0], done.text
    assert metrics(tmp_path) == metrics(finished)
    bare = shutil.copytree(finished / "model", tmp_path / "bare")
    done = forked("evaluate.py", f"ckpt={bare}", *quick, out=tmp_path / "none")
    assert done.codes == [1] and "add experiment=" in done.text and "Traceback" not in done.text


def test_a_refused_run_says_so_in_its_folder(scenes, tmp_path):
    """What conf/train.yaml says of the two files: only one that begins has a config."""
    done = forked("train.py", *RUN, *scenes, "init=none.ckpt", out=tmp_path)
    assert done.codes == [1] and "no checkpoint at init=none.ckpt" in done.text, done.text
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["state"] == "failed" and "init=none.ckpt" in status["why"]
    assert "init=none.ckpt" in status["overrides"] and not (tmp_path / "config.yaml").exists()


def test_a_second_process_is_refused(finished, scenes):
    with owner.owned(finished):
        done = forked("train.py", *RUN, *scenes, "trainer.max_steps=4", out=finished)
    assert done.codes == [1] and f"process {os.getpid()} on " in done.text, done.text
    assert json.loads((finished / "status.json").read_text())["state"] == "finished"


def test_a_damaged_checkpoint_is_skipped_for_an_older_one(scenes, tmp_path):
    """Whole files: one lacks its optimizer, the next older one has other weights, then comes a good one."""
    arguments = [*RUN, *scenes, *OFTEN]
    assert forked("train.py", *arguments, "trainer.max_steps=3", out=tmp_path).codes == [0]
    folder = tmp_path / "checkpoints"
    (folder / "last.ckpt").unlink()
    state = torch.load(folder / "step_3.ckpt", weights_only=True)
    os.utime(folder / "step_1.ckpt", (1, 1))
    torch.save({**state, "optimizer_states": []}, folder / "step_3.ckpt")
    torch.save({**state, "state_dict": {"model.x": torch.ones(1)}}, folder / "step_2.ckpt")
    done = forked("train.py", *arguments, "trainer.max_steps=4", out=tmp_path)
    assert done.codes == [0], done.text
    assert done.text.count("is skipped, it is not a whole checkpoint") == 2
    assert "step_1.ckpt" in done.text


def test_weights_that_are_not_finite_are_never_saved(scenes, tmp_path):
    """Every loss and every gradient is finite, and the last step leaves a weight that is infinite."""
    spoilt = "+callbacks.spoilt={_target_: commands.InfiniteWeight, step: 3}"
    done = forked("train.py", *RUN, *scenes, spoilt, "trainer.max_steps=3", out=tmp_path)
    assert done.codes == [1] and "not finite" in done.text, done.text
    assert not (tmp_path / "model").exists()
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "failed"
    for path in (tmp_path / "checkpoints").glob("*.ckpt"):
        weights = torch.load(path, weights_only=True)["state_dict"].values()
        assert all(bool(w.isfinite().all()) for w in weights if w.is_floating_point())


def test_a_run_whose_last_step_was_left_out_is_never_a_finished_one(scenes, tmp_path):
    """Started again, it ended as a success with "nothing left to train"; a longer training goes on."""
    spoilt = "+callbacks.spoilt={_target_: commands.InfiniteGradient, step: 1}"
    for _ in range(2):
        done = forked("train.py", *RUN, *scenes, spoilt, "trainer.max_steps=2", out=tmp_path)
        assert done.codes == [1] and "nothing left" not in done.text, done.text
        assert done.text.count("error: the last step had no finite gradient: caption of digits/caption") == 1
        assert json.loads((tmp_path / "status.json").read_text())["state"] == "failed"
        assert not (tmp_path / "model").exists() and (tmp_path / "non_finite" / "step_000001").is_dir()
    done = forked("train.py", *RUN, *scenes, spoilt, "trainer.max_steps=3", out=tmp_path)
    assert done.codes == [0] and (tmp_path / "model").is_dir(), done.text
    done = forked("train.py", *RUN, *scenes, spoilt, "trainer.max_steps=3", out=tmp_path)
    assert done.codes == [0] and "nothing left to train" in done.text, done.text


def test_a_full_disk_under_the_logs_does_not_end_a_training(scenes, tmp_path):
    """From the first step on no file can grow beyond 3000 bytes, as a log and the model do."""
    values = f"step: 1, bytes: 3000, marker: {tmp_path}_full"
    limit = "+callbacks.full={_target_: commands.FullDisk, " + values + "}"
    quiet = ["logger=[csv,tensorboard]", "callbacks.checkpoint=null", "callbacks.preemption=null"]
    done = forked("train.py", *RUN, *scenes, *quiet, limit, "trainer.max_steps=6", out=tmp_path)
    assert "Traceback" not in done.text, done.text
    assert "could not write to" in done.text, done.text
    assert done.codes == [1] and "free space and start the same command again" in done.text
