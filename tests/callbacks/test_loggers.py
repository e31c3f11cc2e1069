"""Loggers on a full disk: one line in the log, whichever call is the first to fail."""

from __future__ import annotations

import errno

import pytest
from lightning.pytorch.loggers import TensorBoardLogger
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
