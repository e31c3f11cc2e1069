"""What batches gain: digit scenes predicted by a loop of single calls and by one call; do they agree?

    python benchmarks/predict_batches.py SCENES [--tasks detection caption] [--clock cpu --threads 1]

SCENES is a folder of pictures, as `ufo data digits --out SCENES --train 0 --val 100` draws them. Both ways
read the pictures' files. Before it, each task answers a few pictures that do not count.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from common import Clock, common_arguments, show

import ufo
from ufo.data.image_files import images_in
from ufo.inference import Result
from ufo.model import UFO

TEXT = "the orange seven"
WARM_UP = 3  # pictures
PIXELS = 1e-3  # of a mask, that rounding may change


def same(one: Result, other: Result) -> bool:
    """Whether two answers are the same: texts and classes exactly, numbers but for rounding.

    Of masks and maps one pixel in a thousand may be on the other side of the threshold.
    """
    if one.text != other.text or len(one) != len(other):
        return False
    for name in ("boxes", "scores", "labels", "masks", "semantic"):
        ours, theirs = getattr(one, name), getattr(other, name)
        if ours is not None and ours.numel():
            differ = ~torch.isclose(ours.float(), theirs.float(), atol=1e-4, rtol=1e-4)
            if differ.float().mean() > PIXELS * (name in ("masks", "semantic")):
                return False
    return True


def measure(model: UFO, task: str, paths: list[Path], size: int, clock: Clock) -> list[object]:
    text = TEXT if model.tasks[task].needs_text else None
    model.predict(paths[:WARM_UP], task, text, batch_size=size)
    alone, single = clock(lambda: [model.predict(path, task, text) for path in paths])
    together, batched = clock(lambda: model.predict(paths, task, text, batch_size=size))
    equal = sum(same(one, other) for one, other in zip(alone, together, strict=True))
    times = [f"{seconds / len(paths) * 1000:.0f} ms" for seconds in (single, batched)]
    return [task, *times, f"{single / batched:.1f} x", f"{equal} of {len(paths)}"]


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("scenes", type=Path)
    made.add_argument("--ckpt", default="weights/ufo_vit_tiny_digits")
    made.add_argument("--tasks", nargs="+")
    made.add_argument("--images", type=int, default=100)
    made.add_argument("--batch", type=int, default=32)
    common_arguments(made)
    arguments = made.parse_args()
    torch.set_num_threads(arguments.threads)
    model, clock = ufo.load(arguments.ckpt), Clock(arguments.clock)
    paths = images_in(arguments.scenes)[: arguments.images]
    tasks = arguments.tasks or list(model.tasks)
    rows = [measure(model, task, paths, arguments.batch, clock) for task in tasks]
    title = (
        f"{len(paths)} pictures, batches of {arguments.batch}, {arguments.threads} threads, {arguments.clock}"
    )
    show(title, ["task", "one by one", "in batches", "gain", "same answers"], rows)


if __name__ == "__main__":
    main()
