"""Rows of whole trainings of the small model: `train.py experiment=digits` with its data, callbacks and logs.

A process of its own, as a user starts it: what it reaches depends on the host as much as on the model.
"""

from __future__ import annotations

import csv
import subprocess
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from gpu_rows import Bench
from gpu_vit import Rows

ROOT = Path(__file__).parents[1]
STEPS, EVERY = 120, 20  # steps, and those between two logs


def digits(bench: Bench) -> Rows:
    ways = {"": "auto", ", recorded steps": "all"} if bench.cuda else {"": "auto"}
    for name, graphs in ways.items():
        yield f"experiment=digits{name}", partial(_trained, bench, graphs)


def _trained(bench: Bench, graphs: str) -> dict[str, float]:
    """Images per second of the last three logs: in those before, recordings and libraries are set up."""
    steps, every = (8, 2) if bench.miniature else (STEPS, EVERY)
    with TemporaryDirectory() as folder:
        words = ["experiment=digits", f"paths.root={folder}", f"hydra.run.dir={folder}/run", "logger=csv"]
        words += [f"trainer.max_steps={steps}", f"trainer.log_every_n_steps={every}", f"cuda_graphs={graphs}"]
        words += ["trainer.limit_val_batches=0", f"trainer.accelerator={'gpu' if bench.cuda else 'cpu'}"]
        done = subprocess.run([sys.executable, "train.py", *words], cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        (file,) = Path(folder, "run").rglob("metrics.csv")
        with file.open(encoding="utf-8", newline="") as lines:
            logs = [row for row in csv.DictReader(lines) if row.get("speed/images_per_s")][-3:]
    found = {"images/s": sum(float(row["speed/images_per_s"]) for row in logs) / len(logs)}
    return found | ({"GB": float(logs[-1]["speed/memory_gb"])} if bench.cuda else {})
