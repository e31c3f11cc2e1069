"""Each benchmark runs at its smallest settings and prints its table; they assert equal answers themselves."""

from __future__ import annotations

import subprocess
import sys

import pytest
from commands import ROOT, environment, forked

FOLDER = ROOT / "benchmarks"
SMALL = ["--network", "tiny", "--scale", "0.2", "--threads", "1"]
RUNS = {
    "decode_vit": ([*SMALL, "--objects", "120"], "grounding"),
    "gpu": (["--miniature", "--parts", "train", "attention", "mllm", "--limit", "9"], "one answer: calls"),
    "launches": ([*SMALL, "--tasks", "detection"], "training step"),
    "train_step_vit": ([*SMALL, "--objects", "3"], "grounding"),
    "decode_mllm": (
        ["--tiles=1", "--layers=1", "--vocabulary=300", "--prompt=9", "--objects=2", "--samples=1"],
        "default, ",
    ),
    "dataloader": (
        ["--sizes", "64x48", "--images", "3", "--repeat", "1", "--scale", "0.2"],
        "decoding alone",
    ),
    "scaling": (
        ["--processes", "1", "2", "--steps", "1", "--experiments", "ufo_vit_b_multi"],
        "Expected efficiency",
    ),
    "score": (["--expressions", "60", "--images", "20", "--coco", "12", "--resamples", "30"], "expressions"),
    "mask_postprocessing": (["--masks", "8", "--size", "48", "64", "--patches", "14"], "kept"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_benchmark(name, tmp_path, monkeypatch):
    arguments, expected = RUNS[name]
    monkeypatch.syspath_prepend(FOLDER)
    done = forked(f"benchmarks/{name}.py", *arguments, out=tmp_path / name, timeout=900, with_hydra=False)
    assert done.codes == [0], done.text
    assert expected in done.text


@pytest.mark.slow
def test_the_benchmark_that_measures_the_memory_of_processes():
    """Its rows are new processes, which import the script by its name."""
    sizes = ["--images", "300", "--boxes", "2000", "--workers", "1", "--lookups", "50"]
    command = [sys.executable, str(FOLDER / "annotations.py"), *sizes]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "one without annotations, spawn" in done.stdout
