"""The folder of digit scenes: the same for the same seed, whole or absent, and never someone else's."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from digit_scenes import COUNTS, drawn, files

from ufo.data import digits
from ufo.data.digits import generate
from ufo.data.errors import DataError


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return drawn(tmp_path_factory)


def test_same_seed_same_files_and_other_seed_others(scenes, tmp_path):
    """All scenes again, from two processes: the next test."""
    one, again = (
        generate(tmp_path / name, train=9, val=4, workers=1, progress=False) for name in ("one", "again")
    )
    assert files(again) == files(one)
    fewer = generate(tmp_path / "fewer", train=3, val=0, workers=1, progress=False)
    other = generate(tmp_path / "other", train=3, val=0, seed=1, workers=1, progress=False)
    image = "train/images/000001.jpg"
    assert (fewer / image).read_bytes() == (scenes / image).read_bytes()
    assert (fewer / image).read_bytes() != (other / image).read_bytes()


@pytest.mark.slow
def test_workers_do_not_change_the_files(scenes, tmp_path):
    parallel = generate(tmp_path / "parallel", **COUNTS, workers=2, progress=False)
    assert files(parallel) == files(scenes)


def test_a_split_that_is_not_asked_for_may_have_scenes(tmp_path):
    """An evaluation needs no training scenes and takes those of a training as they are."""
    out = generate(tmp_path / "d", train=3, val=2, workers=1, progress=False)
    before = files(out)
    assert generate(out, train=0, val=2, workers=1, progress=False) == out
    assert generate(out, train=3, val=0, workers=1, progress=False) == out
    assert files(out) == before
    with pytest.raises(DataError, match="val=2 instead of val=4"):
        generate(out, train=0, val=4, workers=1, progress=False)


def test_a_run_takes_a_folder_with_more_scenes_than_it_needs(tmp_path):
    out = generate(tmp_path / "d", train=2, val=2, workers=1, progress=False)
    before = files(out)
    assert generate(out, train=1, val=1, at_least=True) == out
    assert files(out) == before
    with pytest.raises(DataError, match="train=2 instead of train=3"):
        generate(out, train=3, val=1, at_least=True)
    with pytest.raises(DataError, match="seed=0 instead of seed=1"):
        generate(out, train=1, val=1, seed=1, at_least=True)
    with pytest.raises(DataError, match="scenes with val=2 instead of val=3;"):  # enough is no fault
        generate(out, train=1, val=3, at_least=True)
    with pytest.raises(DataError, match="train=2 instead of train=1"):
        generate(out, train=1, val=1)


def test_finished_folder_is_reused(scenes, monkeypatch):
    monkeypatch.setattr(digits, "draw_scene", lambda *_: pytest.fail("drawn again"))
    assert generate(scenes, **COUNTS, progress=False) == scenes


def test_other_options_are_refused_or_replaced(tmp_path):
    options = {"val": 1, "workers": 1, "progress": False}
    out = generate(tmp_path / "digits", train=2, **options)
    with pytest.raises(DataError, match=r"train=2 instead of train=3.*out=.*force"):
        generate(out, train=3, **options)
    assert len(list((out / "train/images").iterdir())) == 2
    generate(out, train=3, force=True, **options)
    assert len(list((out / "train/images").iterdir())) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["digits"]


def test_foreign_folder_is_never_replaced(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="no finished digit scenes"):
        generate(tmp_path, train=1, val=1, force=True, progress=False)
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_bad_options_are_named(tmp_path):
    with pytest.raises(DataError, match="standard"):
        generate(tmp_path / "x", train=1, val=1, variant="shift")
    with pytest.raises(DataError, match="size=8"):
        generate(tmp_path / "x", train=1, val=1, size=8)


def test_failure_leaves_nothing(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(digits, "_write_captions", full_disk)
    with pytest.raises(OSError, match="No space"):
        generate(tmp_path / "digits", train=2, val=1, workers=1, progress=False)
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_killed_generation_is_not_mistaken_for_a_finished_one(tmp_path):
    out = tmp_path / "digits"
    command = [sys.executable, "-m", "ufo.data.digits", "--out", str(out), "--train", "100000"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".digits.partial-*/train/images/*.jpg")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists()
    assert len(list(tmp_path.iterdir())) == 1
    time.sleep(0.5)  # the workers notice that their parent is gone
    generate(out, train=2, val=1, workers=1, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["digits"]


@pytest.mark.parametrize("version", [1, 2])
def test_older_scenes_get_what_they_lack_and_nothing_else_changes(version, scenes, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(scenes, old)
    stamp = json.loads((old / digits.STAMP).read_text())
    (old / digits.STAMP).write_text(json.dumps({**stamp, "format": version}))
    before = {}
    for split in ("train", "val"):
        (old / split / "refcoco" / "grefs(digits).json").unlink()
        if version == 1:
            (old / split / "conversations.json").unlink()
            (old / split / "refcoco" / "refs(reasoning).p").unlink()
    for path in old.rglob("*"):
        before[path] = path.stat().st_mtime_ns
    assert generate(old, **COUNTS, workers=1, progress=False) == old
    assert files(old) == files(scenes)
    same = [p for p in before if p.is_file() and p.name != digits.STAMP]
    assert all(p.stat().st_mtime_ns == before[p] for p in same)
    assert [p.name for p in tmp_path.iterdir()] == ["old"]
