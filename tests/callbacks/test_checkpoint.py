"""A checkpoint is there whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import torch

from ufo.callbacks.checkpoint import AtomicCheckpointIO, second_name


def saved(path: Path, step: int) -> Path:
    AtomicCheckpointIO().save_checkpoint({"global_step": step, "state_dict": {"w": torch.ones(1000)}}, path)
    return path


def optimizer_steps(path: Path) -> int:
    return torch.load(path, weights_only=True)["global_step"]


def test_a_failed_write_keeps_what_was_there(tmp_path, monkeypatch, caplog):
    path, writer = saved(tmp_path / "last.ckpt", 1), AtomicCheckpointIO()

    def full(checkpoint, file) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        writer.save_checkpoint({"global_step": 2}, path)
    assert "No space left on device" in caplog.text and writer.failed == path
    assert optimizer_steps(path) == 1 and os.listdir(tmp_path) == ["last.ckpt"]
    writer.save_checkpoint({"global_step": 3}, path)
    assert optimizer_steps(path) == 3 and writer.failed is None


def test_a_second_name_is_the_same_file_and_outlives_the_first(tmp_path):
    old, new = saved(tmp_path / "last.ckpt", 1), saved(tmp_path / "step_2.ckpt", 2)
    assert second_name(new, old) and second_name(new, old)
    assert old.samefile(new) and sorted(os.listdir(tmp_path)) == ["last.ckpt", "step_2.ckpt"]
    new.unlink()
    assert optimizer_steps(old) == 2
    assert not second_name(new, old) and optimizer_steps(old) == 2
