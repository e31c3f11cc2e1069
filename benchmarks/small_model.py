"""What pixels cost: seconds and memory of a detection step of the small model, per resolution (float32).

    python benchmarks/small_model.py [--sides 112 224 336 448] [--batch 4] [--objects 8] [--threads 2]

The prompt lists the 80 classes of COCO. Memory is the largest that the process had beyond the model's own.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch
from common import Clock, common_arguments, show, with_peak
from train_step_vit import make_batch

from ufo import build
from ufo.checkpoints.recipes import compose
from ufo.model import UFO
from ufo.types import Batch


def make_model(side: int) -> UFO:
    """The small model with random weights at a resolution."""
    sides = [f"resolution.{task}={side}" for task in ("detection", "grounding", "caption")]
    cfg = compose([*sides, f"resolution.bins.detection={side // 2}", f"backbone.network.image_size={side}"])
    torch.manual_seed(0)
    return build.build_model(cfg).train()


def repeated(batch: Batch, count: int) -> Batch:
    """A batch of one image, `count` times."""
    many = {
        name: value * count
        for name, value in vars(batch).items()
        if isinstance(value, list) and len(value) == 1
    }
    images, semantic = (x.repeat(count, *[1] * (x.ndim - 1)) for x in (batch.images, batch.semantic))
    return replace(batch, images=images, semantic=semantic, **many)


def step(model: UFO, batch: Batch) -> None:
    model.loss(batch)["loss"].backward()
    model.zero_grad(set_to_none=True)


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--sides", nargs="+", type=int, default=[112, 224, 336, 448])
    made.add_argument("--batch", type=int, default=4)
    made.add_argument("--objects", type=int, default=8)
    common_arguments(made)
    arguments = made.parse_args()
    torch.set_num_threads(arguments.threads)
    clock, rows = Clock(arguments.clock), []
    for side in arguments.sides:
        model = make_model(side)
        batch = repeated(make_batch("detection", side, arguments.objects), arguments.batch)
        _, _, before = with_peak(clock, lambda: None)
        step(model, batch)
        _, seconds, peak = with_peak(clock, step, model, batch)
        queries = model.grid(model.task("detection"), side, side).references.shape[1]
        rows.append([f"{side}", f"{queries}", f"{seconds:.2f}", f"{peak - before:.2f}"])
    columns = ["pixels per side", "queries", f"{arguments.clock} s", "GB"]
    show(f"Detection, batch {arguments.batch}, {arguments.threads} threads", columns, rows)


if __name__ == "__main__":
    main()
