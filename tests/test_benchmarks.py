"""Each benchmark runs at its smallest settings and prints its table; they assert equal answers themselves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
SMALL = ["--network", "tiny", "--scale", "0.2", "--threads", "1"]
RUNS = {
    "annotations": (
        ["--images", "300", "--boxes", "2000", "--workers", "1", "--lookups", "50"],
        "one without annotations, spawn",
    ),
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
def test_benchmark(name):
    arguments, expected = RUNS[name]
    command = [sys.executable, str(FOLDER / f"{name}.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout
