"""Pieces of work per part of UFO-ViT (bf16 autocast), counted on the CPU: kernels that a GPU would be given.

    python benchmarks/launches.py --network narrow --scale 0.2 [--tasks detection]

Counts hardly depend on widths and on the size of the image.
"""

from __future__ import annotations

import torch
from common import make_model, parser, show, side
from train_step_vit import make_batch

from ufo.backbones.context import AnswerCache
from ufo.head.casting import casting_once
from ufo.model import UFO
from ufo.ops.launches import Launches


def count(function, *arguments, **named):
    with Launches() as launches:
        result = function(*arguments, **named)
    return result, launches


def predicting(model: UFO, name: str, pixels: int) -> list[int]:
    """Pieces of the prefix, an answer call, the casts in it, and of rows that leave."""
    task, batch = model.task(name), make_batch(name, pixels, 3)
    asked = task.ask(batch, model.grid(task, pixels, pixels))
    with torch.autocast("cpu", torch.bfloat16), casting_once(model):
        context, prefix = count(model.encode, batch.images, asked.prompts, asked.queries, task)
        cache, ids = AnswerCache(4), torch.zeros(context.num_rows, 1, dtype=torch.int64)
        model.backbone.answer(context, ids, cache=cache)
        _, call = count(model.backbone.answer, context, ids, cache=cache)
        rows = torch.arange(max(context.num_rows - 1, 1))
        _, leaving = count(lambda: (context.select(rows), cache.select(rows)))
    return [prefix.total, call.total, call.casts, leaving.total]


def training(model: UFO, name: str, pixels: int) -> int:
    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = model.loss(make_batch(name, pixels, 3))["loss"]
        loss.backward()

    return count(step)[1].total


def main() -> None:
    arguments = parser(__doc__.splitlines()[0]).parse_args()
    rows = []
    for name in arguments.tasks:
        arguments.tasks = [name]
        model, pixels = make_model(arguments), side(name, arguments.scale)
        step = training(model.train(), name, pixels)
        model.eval()
        rows.append([name, str(pixels), *map(str, predicting(model, name, pixels)), str(step)])
    columns = ["task", "side", "prefix", "answer call", "casts in it", "rows leave", "training step"]
    show("pieces of work", columns, rows)


if __name__ == "__main__":
    main()
