"""A checkpoint is there whole or not at all, and the newest whole one is found."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest
import torch

from ufo.callbacks.checkpoint import AtomicCheckpointIO, second_name
from ufo.checkpoints.latest import last_good, optimizer_steps


def saved(path: Path, step: int) -> Path:
    AtomicCheckpointIO().save_checkpoint({"global_step": step, "state_dict": {"w": torch.ones(1000)}}, path)
    return path


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


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "other", "folder", "link"])
def test_the_last_good_one_is_found(damage, tmp_path, caplog):
    good, bad = saved(tmp_path / "step_4.ckpt", 4), saved(tmp_path / "last.ckpt", 6)
    whole = bad.read_bytes()
    bad.unlink()
    if damage == "folder":
        bad.mkdir()
    elif damage == "link":
        bad.symlink_to(tmp_path / "gone")
    elif damage == "other":
        torch.save({"w": torch.ones(1)}, bad)
    else:
        bad.write_bytes({"cut": whole[: len(whole) * 9 // 10], "empty": b"", "text": b"no zip"}[damage])
    if damage != "link":
        os.utime(bad, (time.time() + 9, time.time() + 9))
    assert last_good(tmp_path) == good
    assert damage == "link" or "last.ckpt is skipped, it is not a whole checkpoint" in caplog.text


def test_the_newest_counts_and_not_the_one_with_most_steps(tmp_path):
    """A run was started afresh in the folder of a longer one."""
    saved(tmp_path / "step_90.ckpt", 90)
    new = saved(tmp_path / "step_5.ckpt", 5)
    os.utime(tmp_path / "step_90.ckpt", (1, 1))
    assert last_good(tmp_path) == new
    assert last_good(tmp_path / "nothing") is None


def test_nothing_in_a_checkpoint_is_executed(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"global_step": 1, "trap": Trap()}, tmp_path / "last.ckpt")
    assert last_good(tmp_path) is None and not (tmp_path / "executed").exists()
