"""`ufo demo` with a few scenes and seconds."""

import logging
import re

import pytest
from commands import ROOT, TASKS, needs_weights

from ufo.cli.main import main

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def lightning_talks_again():
    """The demo silences Lightning for as long as its process lives; other tests read what it says."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    yield
    logger.setLevel(level)


@needs_weights
def test_the_demo_prints_five_metrics_of_four_models(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    sizes = [f"sources.{task}.{key}=2" for task in TASKS for key in ("batch_size", "val_batch_size")]
    scenes = [f"prepare.digits.out={tmp_path / 'scenes'}", "prepare.digits.train=32", "prepare.digits.val=4"]
    arguments = ["demo", "--minutes", "0.05", "--batches", "1", "--out", str(tmp_path / "demo")]
    assert main([*arguments, *sizes, *scenes, "num_workers=0", "trainer.accelerator=cpu"]) == 0
    printed = capsys.readouterr().out
    for task in TASKS:
        (row,) = re.findall(rf"^{task} [\w@.-]+ .*$", printed, re.MULTILINE)
        assert len([float(x) for x in row.split()[2:]]) == 4
    assert "detection mAP50 " in printed and "grounding Acc@0.5 " in printed
    for part in ("before", "after"):
        assert len(list((tmp_path / "demo" / "pictures" / part).rglob("*.png"))) >= len(TASKS)
    assert (tmp_path / "demo" / "model" / "model.safetensors").is_file()
