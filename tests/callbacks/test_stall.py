"""Who waits, and for what, is said while it waits."""

from __future__ import annotations

import logging
import multiprocessing
import time
from types import SimpleNamespace

import pytest

from ufo.callbacks.stall import STALLED_EXIT, StallWatch

SHORT = 0.1
TRAINER = SimpleNamespace(global_rank=3)


@pytest.fixture
def watch(caplog):
    caplog.set_level(logging.WARNING)
    started = StallWatch(seconds=SHORT)
    started.on_train_start(TRAINER, None)
    yield started
    started.teardown(TRAINER, None, "fit")
    assert started._thread is None


def wait_for(caplog, text: str) -> None:
    end = time.monotonic() + 20
    while text not in caplog.text and time.monotonic() < end:
        time.sleep(SHORT / 5)
    assert text in caplog.text


def test_a_stalled_loader_is_told_from_a_process_that_waits_for_others(watch, caplog):
    wait_for(caplog, "process 3 waits for its next batch: a worker of the data loader is stalled")
    assert "test_stall.py" in caplog.text  # where the main thread is
    watch.on_train_batch_start(TRAINER, None, None, 7)
    wait_for(caplog, "process 3 is in batch 7: it computes, or waits for another process")
    watch.on_train_batch_end(TRAINER, None, None, None, 7)
    watch.on_validation_start(TRAINER, None)
    wait_for(caplog, "process 3 is between batches")


def test_progress_is_not_worth_a_line_and_waiting_twice_as_long_is(caplog):
    caplog.set_level(logging.WARNING)
    busy = StallWatch(seconds=60)
    busy.on_train_start(TRAINER, None)
    for i in range(5):
        busy.on_train_batch_start(TRAINER, None, None, i)
        busy.on_train_batch_end(TRAINER, None, None, None, i)
    busy.teardown(TRAINER, None, "fit")
    assert not caplog.records
    idle = StallWatch(seconds=SHORT)
    idle.on_train_start(TRAINER, None)
    time.sleep(10 * SHORT)
    idle.teardown(TRAINER, None, "fit")
    assert 1 <= len(caplog.records) <= 5  # after 1, 2, 4, 8 times as long


def stuck() -> None:
    StallWatch(seconds=SHORT, abort_after=2 * SHORT).on_train_start(TRAINER, None)
    time.sleep(60)


def test_a_process_that_is_stuck_can_end_itself():
    process = multiprocessing.get_context("fork").Process(target=stuck)
    process.start()
    process.join(30)
    assert process.exitcode == STALLED_EXIT


@pytest.mark.parametrize("wrong", [{"seconds": 0}, {"abort_after": -1}])
def test_times_are_checked(wrong):
    with pytest.raises(ValueError, match="must be positive"):
        StallWatch(**wrong)
