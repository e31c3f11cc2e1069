"""Worker processes end with the process that started them, however it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from ufo.data.processes import outlive_signals

FORK = multiprocessing.get_context("fork")


def work(number: int, ready: Connection) -> None:
    """A worker of a data loader, which nothing but its parent's end stops."""
    outlive_signals(number)
    ready.send(os.getpid())
    while True:
        time.sleep(60)


def run(pipe: Connection, how: str) -> None:
    """A run with three workers; it fails, or somebody ends it."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets its background jobs ignore it
    received, sent = FORK.Pipe(duplex=False)
    for number in range(3):
        FORK.Process(target=work, args=(number, sent), daemon=True).start()  # as those of torch
    pipe.send([received.recv() for _ in range(3)])
    if how == "leaves":
        os._exit(1)
    time.sleep(60)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "SIGINT", "leaves"])
def test_no_worker_outlives_its_run(how):
    received, sent = FORK.Pipe(duplex=False)
    process = FORK.Process(target=run, args=(sent, how))
    process.start()
    workers = received.recv()
    if how != "leaves":
        assert all(map(is_alive, workers))
        os.kill(process.pid, getattr(signal, how))
    process.join(30)
    assert process.exitcode is not None
    end = time.monotonic() + 20
    while any(map(is_alive, workers)) and time.monotonic() < end:
        time.sleep(0.01)
    left = [pid for pid in workers if is_alive(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def test_workers_outlive_the_signal_of_a_cluster():
    """It comes from another process than their run."""
    received, sent = FORK.Pipe(duplex=False)
    process = FORK.Process(target=run, args=(sent, "lives"))
    process.start()
    workers = received.recv()
    for pid in workers * 2:
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGUSR1)
    time.sleep(0.3)
    assert all(map(is_alive, workers))
    os.kill(process.pid, signal.SIGINT)
    process.join(30)
    assert process.exitcode is not None and not any(map(is_alive, workers))
