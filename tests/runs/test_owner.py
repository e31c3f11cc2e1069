"""A folder has one owner at a time; a dead one is recognised, a living one is not."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest

from ufo.runs import owner
from ufo.runs.owner import FILE, FolderInUse, Owner, is_first_process, owned


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in (*owner.RANKS, "SLURM_JOB_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)


def put(folder: Path, **changes) -> Owner:
    """Somebody else's claim."""
    other = dataclasses.replace(Owner(), token="other", **changes)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(json.dumps(dataclasses.asdict(other)))
    return other


def hold(folder: Path, pipe) -> None:
    with owned(folder):
        pipe.send("here")
        pipe.poll(60)


@pytest.fixture
def holder(tmp_path):
    """A process that owns `tmp_path`, and the pipe that lets it go."""
    context = multiprocessing.get_context("fork")
    pipe, other = context.Pipe()
    process = context.Process(target=hold, args=(tmp_path, other))
    process.start()
    assert pipe.recv() == "here"
    yield process, pipe
    process.kill()
    process.join()


def test_a_second_process_is_refused_with_host_and_number(tmp_path, holder):
    process, pipe = holder
    said = rf"process {process.pid} on \S+ is working in .*name="
    with pytest.raises(FolderInUse, match=said), owned(tmp_path):
        pass
    pipe.send("leave")
    process.join(10)
    with owned(tmp_path):
        assert owner.read(tmp_path).pid == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_owner_is_known_to_be_dead(tmp_path, holder):
    process, _ = holder
    process.kill()
    time.sleep(0.2)  # not yet waited for: its number is still in the table of processes
    with owned(tmp_path):
        assert owner.read(tmp_path).pid == os.getpid()


def test_a_number_that_another_process_has_now_is_not_the_owner(tmp_path):
    put(tmp_path, pid=os.getppid(), born="1")
    with owned(tmp_path):
        pass


@pytest.mark.parametrize(
    "content", ["", "{", "{}", "[]", '{"pid": "x"}', '{"pid": -1, "host": "h"}', "[" * 9999]
)
def test_a_strange_file_is_nobody(content, tmp_path):
    (tmp_path / FILE).write_text(content)
    with owned(tmp_path):
        assert owner.read(tmp_path).pid == os.getpid()
    assert not (tmp_path / FILE).exists()


def test_an_owner_on_another_machine_that_gives_signs_of_life_is_believed(tmp_path):
    other = put(tmp_path, host="elsewhere", pid=7)
    ended = threading.Event()
    threading.Thread(target=owner._beat, args=(tmp_path, other, 0.1, ended), daemon=True).start()
    try:
        with pytest.raises(FolderInUse, match="process 7 on elsewhere"), owned(tmp_path, silence=20):
            pass
    finally:
        ended.set()


def test_an_owner_on_another_machine_that_is_silent_is_dead(tmp_path):
    put(tmp_path, host="elsewhere")
    with owned(tmp_path, silence=0.3):
        assert owner.read(tmp_path).pid == os.getpid()


def test_a_container_with_the_same_name_is_another_machine(tmp_path):
    """Its process numbers mean nothing here: that of this very process, above all."""
    assert not put(tmp_path, machine="another boot").is_here


def test_a_requeued_job_takes_over_and_a_second_step_of_the_same_job_does_not(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    put(tmp_path, host="elsewhere", job="12", restarts=0)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    start = time.monotonic()
    with owned(tmp_path, silence=30):
        assert owner.read(tmp_path).restarts == 1
    assert time.monotonic() - start < 5
    put(tmp_path, job="12", restarts=1, pid=os.getppid(), born=owner._born(os.getppid()))
    with pytest.raises(FolderInUse), owned(tmp_path):
        pass


@pytest.mark.parametrize("variable", ["RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"])
def test_further_processes_of_a_distributed_run_own_nothing(variable, tmp_path, monkeypatch):
    with owned(tmp_path):
        monkeypatch.setenv(variable, "1")
        assert not is_first_process()
        with owned(tmp_path):
            pass
        monkeypatch.setenv(variable, "0")
        assert is_first_process()


def test_who_was_taken_over_notices(tmp_path, caplog):
    mine, ended = Owner(), threading.Event()
    put(tmp_path, host="elsewhere", pid=9)
    owner._beat(tmp_path, mine, 0.01, ended)
    assert "process 9 on elsewhere has taken" in caplog.text


def test_a_folder_that_cannot_be_written_is_no_reason_to_stop(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(owner, "_write", full)
    with owned(tmp_path):
        pass
    assert "No space left on device" in caplog.text


def race(folder: Path, start, results, done) -> None:
    start.wait()
    try:
        with owned(folder):
            results.put(True)
            done.wait()
    except FolderInUse:
        results.put(False)


def test_of_many_that_find_a_dead_owner_one_wins(tmp_path):
    put(tmp_path, pid=2**22 + 1)
    context = multiprocessing.get_context("fork")
    start, results, done = context.Event(), context.Queue(), context.Event()
    processes = [context.Process(target=race, args=(tmp_path, start, results, done)) for _ in range(6)]
    for process in processes:
        process.start()
    start.set()
    won = [results.get(timeout=60) for _ in processes]
    done.set()  # the winner holds the folder until all have tried
    for process in processes:
        process.join()
    assert sum(won) == 1
