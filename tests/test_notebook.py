"""docs/first_steps.ipynb runs from the first cell to the last, in an empty folder, with a short training."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
import pytest
from commands import environment
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
TRAIN = "!ufo train mine/source/shapes.yaml name=shapes"
SHORT = " trainer.max_steps=2 tasks.detection.max_length=8"


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "docs" / "first_steps.ipynb", as_version=4)


def test_no_output_is_kept(notebook):
    """Outputs would be of another version, and pictures in it make every change of it large."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and all(not cell.outputs and cell.execution_count is None for cell in code)


@pytest.mark.slow
def test_it_runs(notebook, tmp_path, monkeypatch):
    (train,) = [cell for cell in notebook.cells if cell.source == TRAIN]
    train.source += SHORT
    tools = Path(sys.executable).parent
    for name, value in environment(
        PATH=f"{tools}{os.pathsep}{os.environ['PATH']}", PYTHONPATH=str(ROOT)
    ).items():
        monkeypatch.setenv(name, value)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = {
        cell.source: "".join(o.get("text", "") for o in cell.outputs)
        for cell in notebook.cells
        if "outputs" in cell
    }
    assert (
        "usable"
        in said["!ufo data new coco photos/val/images photos/val/instances.json --name shapes --val 0"]
    )
    assert "backbone=ufo_vit_tiny" in said[train.source] and "mAP50" in said[train.source]
    for file in ("seen/sheet.png", "found.png", "runs/shapes/model/config.json"):
        assert (tmp_path / file).is_file(), said
