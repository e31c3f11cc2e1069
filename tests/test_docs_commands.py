"""Every command of the documents is run; or composed, where it trains or evaluates; or left out, with why.

`ufo` runs in this process, in a folder that has what the pages speak of, with few scenes. A new command is
run without being named here. One that cannot be run that way needs a line in `LEFT_OUT`: the reason, and what
looks at it instead.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import ROOT, SHIPPED, needs_weights
from PIL import Image
from squares import write_squares
from test_docs import DOCUMENTS, TRAINING, commands

from ufo.cli.main import main

sys.path.insert(0, str(Path(__file__).parent / "data"))  # the exports of label tools

from label_files import yolo

COMPOSED = ("python train.py", "python evaluate.py", *TRAINING)  # tests/test_docs.py
MOST = 4  # scenes of a split that a command may draw

MISSING = "reads data or weights that cannot be had here"
LONG = "takes minutes"
ACCOUNT = "needs an account, a cluster or a registry"
ENDLESS = "serves until it is stopped"
# the beginning of a command -> why it is not run, and what is in its place
LEFT_OUT = {
    "make ": (LONG, "tests/test_docs.py, tests/test_demo.py"),
    "pip ": (ACCOUNT, "tests/test_wheel.py"),
    "sbatch ": (ACCOUNT, "tests/test_slurm_sandbox.py"),
    "cat ": ("shows a file", ""),
    "wandb ": (ACCOUNT, "tests/cli/test_sweeps.py"),
    "tensorboard ": (ENDLESS, ""),
    "python benchmarks/": (LONG, "tests/test_benchmarks.py"),
    "ufo serve": (ENDLESS, "tests/serve/test_serve_command.py"),
    "ufo train mine/source": (LONG, "tests/own/test_command.py"),
    "ufo convert": (MISSING, "tests/cli/test_convert.py"),
    "ufo predict clip.mp4": (LONG, "tests/inference/test_video.py"),
    "ufo predict photo.jpg --ckpt me/birds": (MISSING, "tests/checkpoints/test_hub_models.py"),
    "ufo push runs/birds me/birds --licence": (ACCOUNT, "tests/checkpoints/test_hub_models.py"),
    "ufo export": (LONG, "tests/cli/test_export_command.py"),
    "ufo memory": (LONG, "tests/memory/test_memory.py"),
    "ufo report": (MISSING, "tests/report/test_report.py"),
    "ufo sweep-report": (MISSING, "tests/cli/test_sweep_report.py"),
    "ufo dashboard": (ACCOUNT, "tests/callbacks/test_dashboard.py"),
    "ufo calibrate": (LONG, "tests/cli/test_calibrate_command.py"),
    "ufo score answers.jsonl": (MISSING, "tests/score/test_score_command.py"),
    "ufo score boxes.jsonl": (MISSING, "tests/score/test_score_command.py"),
    "ufo score masks.jsonl": (MISSING, "tests/score/test_score_command.py"),
    "ufo score maps": (MISSING, "tests/score/test_score_command.py"),
    "ufo data mix --config-dir mine": (MISSING, "tests/cli/test_data_commands.py"),
}


def left_out(words: list[str]) -> str | None:
    """The entry of `LEFT_OUT` that a command begins with."""
    return next((start for start in LEFT_OUT if f"{' '.join(words)} ".startswith(start)), None)


def to_run(document: Path) -> list[list[str]]:
    """The commands of a page that are neither composed nor left out, in their order."""
    found = [words for where, words in commands() if where.startswith(f"{document.name}: ")]
    return [words for words in found if left_out(words) is None and " ".join(words[:2]) not in COMPOSED]


def test_reasons__are_about_commands_that_are_there():
    everything = [words for _, words in commands()]
    for start, (reason, instead) in LEFT_OUT.items():
        assert reason and any(left_out(words) == start for words in everything), start
        assert not [f for f in instead.split(", ") if f and not (ROOT / f).is_file()], start


def test_only_our_own_program__is_run_here():
    for document in DOCUMENTS:
        for words in to_run(document):
            assert words[0] == "ufo", f"{document.name}: '{' '.join(words)}' is not run: say why in LEFT_OUT"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder of a reader: a clone with a few photos, an export, and models that were trained."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").symlink_to(SHIPPED.parent)
    (tmp_path / "runs").mkdir()
    for name in ("birds", "mine"):
        (tmp_path / "runs" / name).symlink_to(SHIPPED)
    yolo(tmp_path / "exports" / "birds")
    write_squares(tmp_path / "photos" / "images", tmp_path / "photos" / "birds.json", MOST)
    write_squares(tmp_path / "data" / "birds" / "images", tmp_path / "data" / "birds" / "birds.json", MOST)
    os.symlink(tmp_path / "photos" / "images", tmp_path / "photos" / "new")
    Image.new("RGB", (64, 48), "green").save(tmp_path / "photo.jpg")
    (tmp_path / "photos" / "maps").mkdir()
    half = np.repeat(np.arange(3, dtype=np.uint8), 32)[None].repeat(96, 0)
    lines = []
    for picture in sorted((tmp_path / "photos" / "images").iterdir()):
        Image.fromarray(np.pad(half, ((0, 0), (0, 32)))).save(tmp_path / "photos" / "maps" / picture.name)
        lines.append(json.dumps({"image": picture.name, "text": "the square", "bbox": [10, 10, 40, 32]}))
    (tmp_path / "photos" / "texts.jsonl").write_text("\n".join(lines))
    return tmp_path


def shorter(words: list[str]) -> list[str]:
    """The same command with few scenes."""
    found = list(words)
    for at, word in enumerate(words[:-1]):
        if word in ("--train", "--val") and re.fullmatch(r"\d+", words[at + 1]):
            found[at + 1] = str(min(int(words[at + 1]), MOST))
    return found


@needs_weights
@pytest.mark.heavy
@pytest.mark.parametrize("document", [d for d in DOCUMENTS if to_run(d)], ids=lambda d: d.name)
def test_commands_of_the_page__run(document, folder, monkeypatch, capsys):
    if document.name == "choosing.md":  # it goes on with the import of the page before
        assert main(["data", "import", "exports/birds"]) == 0
    for words in to_run(document):
        capsys.readouterr()
        try:
            code = main(shorter(words)[1:])
        except SystemExit as stop:
            code = stop.code
        said = capsys.readouterr()
        assert not code, f"{' '.join(words)}\n{said.out[-1500:]}{said.err[-1500:]}"
