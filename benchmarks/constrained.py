"""What a grammar costs and buys: AP, broken answers and time with constrained and free decoding.

    python benchmarks/constrained.py [--tasks detection grounding] [--scenes 100] [--clock cpu --threads 1]

Digit scenes that the shipped model has not seen, drawn into the folder `--data` if they are not there. The
time is that of whole batches, from pixels to predictions; a batch before it does not count.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from common import Clock, common_arguments, show

import ufo
from ufo import build
from ufo.checkpoints.recipes import compose
from ufo.data.module import UFODataModule
from ufo.metrics.base import MetricCallback, scoring
from ufo.metrics.format_errors import FormatErrors
from ufo.model import UFO
from ufo.types import Batch

BATCH = 20


def scenes(folder: Path, number: int) -> UFODataModule:
    """The evaluation data of the digits experiment, the first `number` scenes of each source."""
    made = [
        f"prepare.digits.{key}={value}" for key, value in {"out": folder, "train": 0, "val": number}.items()
    ]
    cfg = compose(["experiment=digits", "num_workers=0", *made])
    for source in cfg.sources.values():
        source.val_batch_size = BATCH
    data = build.build_data(cfg)
    data.prepare_data()
    data.setup("validate")
    return data


def measure(model: UFO, batches: list[Batch], constrained: bool, clock: Clock) -> list[str]:
    """A row: the headline of the task's metric, the share of broken answers, milliseconds per image."""
    task = model.task(batches[0].task)
    task.constrained = constrained
    cfg = compose(["experiment=digits"])
    metrics: list[MetricCallback] = [*scoring(task.name, build.metric_callbacks(cfg)), FormatErrors()]
    model.predict_batch(batches[0])
    answers, seconds = clock(lambda: [model.predict_batch(batch) for batch in batches])
    found: dict[str, float | None] = {}
    for metric in metrics:
        metric.start()
        for predictions, batch in zip(answers, batches, strict=True):
            metric.collect(predictions, batch)
        found |= {name.rpartition("/")[2]: value for name, value in metric.compute().items()}
    images = sum(map(len, batches))
    values = [f"{metric.headline} {found[metric.headline]:.4f}" for metric in metrics]
    return [task.name, "a grammar" if constrained else "free", *values, f"{seconds / images * 1000:.1f} ms"]


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--ckpt", default="weights/ufo_vit_tiny_digits")
    made.add_argument("--tasks", nargs="+")
    made.add_argument("--scenes", type=int, default=100)
    made.add_argument("--data", type=Path, default=Path("data/constrained"))
    common_arguments(made)
    arguments = made.parse_args()
    torch.set_num_threads(arguments.threads)
    model, clock = ufo.load(arguments.ckpt).eval(), Clock(arguments.clock)
    data = scenes(arguments.data, arguments.scenes)
    rows = []
    with torch.inference_mode():
        for source, loader in zip(data.evaluated, data.val_dataloader(), strict=True):
            wanted = not arguments.tasks or source.task in arguments.tasks
            if wanted and model.task(source.task).has_grammar:
                batches = list(loader)
                rows += [measure(model, batches, way, clock) for way in (False, True)]
    columns = ["task", "decoding", "", "", f"{arguments.clock} per image"]
    show(f"{arguments.scenes} scenes, {arguments.threads} threads", columns, rows)


if __name__ == "__main__":
    main()
