"""A run that is stopped in any way goes on with the same command, to the same weights bit for bit."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
import torch
from commands import NETWORK, QUICK, TASKS, batches, command, forked, metrics, resolution
from safetensors.torch import load_file
from sharing import shared

pytestmark = pytest.mark.slow

BATCHES = batches(2, *TASKS, evaluated=8)
SMALL = [*NETWORK, *QUICK, *resolution(56, 56), *BATCHES, "~callbacks.pictures", "logger=csv"]
# two batches per step, dropout, and a validation in the middle
RUN = [
    *SMALL,
    "trainer.max_steps=6",
    "trainer.accumulate_grad_batches=2",
    "trainer.val_check_interval=6",
    "backbone.network.drop_path_rate=0.1",
    "backbone.network.text_dropout=0.1",
    "callbacks.checkpoint.every_n_train_steps=4",
]


@pytest.fixture(scope="module")
def straight(scenes, tmp_path_factory) -> Path:
    def train(out: Path) -> None:
        done = forked("train.py", *RUN, *scenes, out=out)
        assert done.codes == [0], done.text

    return shared(tmp_path_factory, "undisturbed", train)


def same_weights(one: Path, other: Path) -> bool:
    a, b = (load_file(folder / "model" / "model.safetensors") for folder in (one, other))
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)


def raised(batch: int, out: Path, kind: str = "SIGTERM", where: str = "train") -> str:
    """An override: the run gets a signal in the midst of its batch number `batch`, once."""
    arguments = f"batch: {batch}, kind: {kind}, where: {where}, marker: {out}_signal"
    return "+callbacks.signal={_target_: commands.SignalOnce, " + arguments + "}"


@pytest.fixture
def heard():
    """Ctrl-C reaches the run, though a shell lets what it starts in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    "batch, where, kind",
    [(3, "train", "SIGTERM"), (6, "train", "SIGTERM"), (3, "val", "SIGTERM"), (3, "train", "SIGINT")],
)
def test_a_signal_saves_and_the_same_command_goes_on(batch, where, kind, straight, scenes, tmp_path, heard):
    """In the second batch of an accumulation, in the first, within a validation; Ctrl-C."""
    out = tmp_path / "run"
    arguments = [*RUN, *scenes, raised(batch, out, kind, where)]
    stopped = forked("train.py", *arguments, out=out)
    assert stopped.codes == [128 + signal.Signals[kind]], stopped.text
    assert "the same command goes on" in stopped.text
    assert not (out / "model").exists()
    done = forked("train.py", *arguments, out=out)
    assert done.codes == [0], done.text
    assert same_weights(out, straight)
    assert metrics(out) == metrics(straight)
    # no optimizer step is missing in the joined curves, none is there twice
    assert logged_steps(out) == logged_steps(straight) == list(range(6))


def logged_steps(folder: Path) -> list[int]:
    """The steps with a training loss in all CSV logs of a run."""
    steps = []
    for path in sorted(folder.glob("csv/**/metrics.csv")):
        head, *rows = [line.split(",") for line in path.read_text().splitlines()]
        places = [i for i, name in enumerate(head) if name.endswith("/loss")]
        steps += [int(row[head.index("step")]) for row in rows if any(row[i] for i in places)]
    return sorted(steps)


def test_a_killed_run_skips_its_damaged_checkpoint(straight, scenes, tmp_path):
    """Killed a step after its second checkpoint, which the test then cuts short."""
    out = tmp_path / "run"
    arguments = [*RUN, *scenes, "callbacks.checkpoint.every_n_train_steps=2", raised(9, out, "SIGKILL")]
    arguments.append("callbacks.checkpoint.save_top_k=-1")
    assert forked("train.py", *arguments, out=out).codes == [-signal.SIGKILL]
    saved = sorted(path.name for path in (out / "checkpoints").glob("*"))
    assert saved == ["last.ckpt", "step_2.ckpt", "step_4.ckpt"]
    for name in ("last.ckpt", "step_4.ckpt"):
        path = out / "checkpoints" / name
        whole = path.read_bytes()
        path.unlink()
        path.write_bytes(whole[: len(whole) // 2])
    done = forked("train.py", *arguments, out=out)
    assert done.codes == [0], done.text
    assert done.text.count("is skipped, it is not a whole checkpoint") == 2
    assert re.search(r"Restoring states .*step_2\.ckpt", done.text)
    assert same_weights(out, straight)


def test_a_full_disk_costs_a_checkpoint_and_not_the_run(straight, scenes, tmp_path):
    """From the third step on no file may grow beyond 100 kB, so that checkpoints fail half written."""
    out = tmp_path / "run"
    values = f"step: 3, bytes: 100_000, marker: {out}_full"
    limit = "+callbacks.full={_target_: commands.FullDisk, " + values + "}"
    arguments = [*RUN, *scenes, "callbacks.checkpoint.every_n_train_steps=2", limit]
    full = forked("train.py", *arguments, out=out)
    assert full.codes == [1] and "free space and start the same command again" in full.text
    assert "step_4.ckpt could not be written" in full.text
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["last.ckpt", "step_2.ckpt"]
    done = forked("train.py", *arguments, out=out)
    assert done.codes == [0], done.text
    assert same_weights(out, straight)


def test_two_processes_stop_together_when_one_gets_the_signal(scenes, tmp_path):
    two = [*RUN, *scenes, "trainer=ddp"]
    done = forked("train.py", *two, out=tmp_path / "straight", processes=2)
    assert done.codes == [0, 0], done.text
    out = tmp_path / "run"
    stopped = forked("train.py", *two, raised(4, out), out=out, processes=2)
    assert stopped.codes == [128 + signal.SIGTERM] * 2, stopped.text
    done = forked("train.py", *two, raised(4, out), out=out, processes=2)
    assert done.codes == [0, 0], done.text
    assert same_weights(out, tmp_path / "straight")


def test_workers_outlive_the_signal_of_a_cluster(straight, scenes, tmp_path):
    """Slurm signals every process of a job: the workers too."""
    out = tmp_path / "run"
    arguments = [*RUN, *scenes, "num_workers=2", raised(4, out, where="workers")]
    stopped = forked("train.py", *arguments, out=out)
    assert stopped.codes == [128 + signal.SIGTERM], stopped.text
    done = forked("train.py", *arguments, out=out)
    assert done.codes == [0], done.text
    assert same_weights(out, straight)


# each of them shares its cores with others: a thread that waits must not spin
THREADS = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
# wide enough that torch divides the sums among the threads
WIDE = [
    *RUN,
    "backbone.network.width=128",
    *batches(4, *TASKS),
    "trainer.max_steps=4",
    "trainer.limit_val_batches=1",
    "callbacks.checkpoint.every_n_train_steps=2",
]


@pytest.fixture(scope="module")
def straight_with_two(scenes, tmp_path_factory) -> Path:
    def train(out: Path) -> None:
        done = command("train.py", *WIDE, *scenes, out=out, env=THREADS)
        assert done.returncode == 0, done.stderr
        assert "2 threads" in (out / "run.json").read_text()

    return shared(tmp_path_factory, "undisturbed_with_two_threads", train)


@pytest.mark.parametrize("how", ["undisturbed", "SIGTERM", "SIGKILL", "full disk"])
def test_two_threads_give_the_same_bits(how, straight_with_two, scenes, tmp_path):
    """Stopped in the second batch of step 3, a step after the checkpoint of step 2."""
    out = tmp_path / "run"
    arguments = [*WIDE, *scenes]
    if how == "full disk":
        values = f"step: 1, bytes: 100_000, marker: {out}_full"
        arguments.append("+callbacks.full={_target_: commands.FullDisk, " + values + "}")
    elif how != "undisturbed":
        arguments.append(raised(5, out, how))
    if how != "undisturbed":
        stopped = command("train.py", *arguments, out=out, env=THREADS).returncode
        assert stopped == {"SIGTERM": 128 + signal.SIGTERM, "SIGKILL": -signal.SIGKILL, "full disk": 1}[how]
    done = command("train.py", *arguments, out=out, env=THREADS)
    assert done.returncode == 0, done.stderr
    assert same_weights(out, straight_with_two)
    assert metrics(out) == metrics(straight_with_two)
