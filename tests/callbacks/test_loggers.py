"""Loggers on a full disk: one line in the log, whichever call is the first to fail."""

from __future__ import annotations

import csv
import errno
import resource
import signal
from contextlib import contextmanager

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils.tensorboard.writer import SummaryWriter

from ufo.callbacks.loggers import forgiving


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("method", ["__init__", "_get_file_writer", "add_scalar"])
def test_a_disk_that_is_full_from_the_beginning(method, tmp_path, monkeypatch, caplog):
    logger = forgiving(TensorBoardLogger(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(SummaryWriter, method, full)
        logger.log_hyperparams({"optimizer": {"lr": 1e-3}})
        logger.log_metrics({"loss": 1.0}, step=0)
        logger.save()
    said = [record.message for record in caplog.records]
    assert len(said) == 1 and "TensorBoardLogger could not write to" in said[0] and "No space left" in said[0]
    logger.log_metrics({"loss": 0.5}, step=1)  # there is room again
    logger.finalize("success")
    assert list(tmp_path.rglob("events.out.tfevents.*"))


@contextmanager
def no_file_beyond(size: int):
    """No file of this process can grow beyond so many bytes."""
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("new", [{}, {"other": 0.25}], ids=["the same columns", "a new column"])
def test_a_csv_file_loses_no_row(new, tmp_path, caplog):
    """What is there stays whole while the disk is full, and later it has all rows, each once."""
    logger = forgiving(CSVLogger(tmp_path, name="", version=""))
    for step in range(20):
        logger.log_metrics({"loss": step / 3}, step=step)
    logger.save()
    [path] = tmp_path.rglob("metrics.csv")
    before = path.read_bytes()
    with no_file_beyond(len(before) + 9):
        for step in range(20, 30):
            logger.log_metrics({"loss": step / 3, **new}, step=step)
            logger.save()
            assert path.read_bytes().startswith(before if not new else b"loss,step")
            assert len(path.read_bytes().splitlines()) in ((21, 22) if not new else (21,))
            assert path.read_bytes().endswith(b"\n")
    assert [p.name for p in path.parent.iterdir()] == ["metrics.csv"]
    assert len([r for r in caplog.records if "CSVLogger could not write" in r.getMessage()]) == 1
    logger.log_metrics({"loss": 10.0}, step=30)
    logger.save()
    with open(path, newline="") as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == list(range(31))
