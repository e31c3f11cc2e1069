"""A tiny random model on disk, images, and the command line in this process."""

from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
from cli_model import tiny_model

from ufo.checkpoints.load import save
from ufo.cli import data_check
from ufo.cli.main import main


@pytest.fixture(scope="session")
def ckpt(tmp_path_factory) -> str:
    return str(save(tiny_model(), tmp_path_factory.mktemp("checkpoint") / "model"))


@pytest.fixture
def images(tmp_path):
    """A folder with 1.jpg, 2.png (40 x 60 pixels each), notes and a subfolder that do not count."""
    folder = tmp_path / "images"
    (folder / "deeper").mkdir(parents=True)
    for name in ("2.png", "1.jpg", "deeper/3.jpg"):
        pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(folder / name)
    (folder / "notes.txt").write_text("not an image")
    (folder / ".hidden.jpg").write_bytes(b"not an image either")
    return folder


@pytest.fixture
def ufo(capfd):
    """Run the command line; the answer has `code`, and `out` and `err` as lists of lines."""

    def run(*arguments) -> SimpleNamespace:
        capfd.readouterr()
        try:
            code = main([str(a) for a in arguments])
        except SystemExit as stop:
            code = stop.code
        captured = capfd.readouterr()
        return SimpleNamespace(code=code, out=captured.out.splitlines(), err=captured.err.splitlines())

    return run


@pytest.fixture
def ufo_data(monkeypatch, tmp_path, capsys):
    """Run `ufo data ...` in `tmp_path`; returns its exit code and what it printed. Checks are only noted."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data_check, "run", lambda args: print(f"checked {args.name}") or 0)

    def run(*words: object) -> tuple[int, str]:
        code = main(["data", *map(str, words)])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run
