"""Pictures through the model in batches: the same answers as one by one, in the order of the pictures.

Shapes: `B` pictures of a batch, `H W` pixels of a picture, `S` pixels per side that a task sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from ufo.inference.asking import Request
from ufo.inference.results import Origin, Result, Results
from ufo.tasks.base import Task
from ufo.types import Batch

if TYPE_CHECKING:
    from ufo.model import UFO

MASKED_PIXELS = 2**22
"""Pixels of all pictures of a batch that is answered with masks: a hundred of each are in memory at once."""


def network_input(pixels: Tensor, task: Task) -> Tensor:
    """A picture uint8 `[3, H, W]` as a task's evaluation resizes it: uint8 `[1, 3, S, S]`."""
    side, how = [task.image_size, task.image_size], InterpolationMode(task.interpolation)
    resized: Tensor = TF.resize(pixels, side, interpolation=how, antialias=task.antialias)
    return resized[None].as_subclass(Tensor)


def answered(
    model: UFO,
    requests: Sequence[Request],
    origins: Iterable[Origin],
    batch_size: int,
    score: float | None,
    computing: Callable[[], AbstractContextManager[None]],
    text_of: Callable[[int], str] | None = None,
) -> Iterator[Results]:
    """What a model says about pictures, one after the other.

    Args:
        requests: the tasks that each is asked.
        batch_size: so many go through the network together, fewer where masks of large pictures fill memory.
        score: objects below it are left out; None: none are.
        computing: a context in which the model computes (its precision); it is left between batches.
        text_of: the text of the picture at an index, where each has its own.
    """
    masks = any(model.tasks[request.task].kind.masks for request in requests)
    for number, group in enumerate(groups(origins, batch_size, MASKED_PIXELS if masks else None)):
        with model.evaluating(again=number > 0), computing():
            found = [_ask(model, request, group, score, text_of) for request in requests]
        for results in zip(*found, strict=True):
            yield Results({result.task: result for result in results})


def groups(origins: Iterable[Origin], size: int, max_pixels: int | None) -> Iterator[list[Origin]]:
    """Up to `size` pictures, of no more than `max_pixels` together unless there is only one."""
    group: list[Origin] = []
    pixels = 0
    for origin in origins:
        height, width = origin.pixels.shape[-2:]
        if group and max_pixels is not None and pixels + height * width > max_pixels:
            yield group
            group, pixels = [], 0
        group.append(origin)
        pixels += height * width
        if len(group) == size:
            yield group
            group, pixels = [], 0
    if group:
        yield group


def _ask(
    model: UFO,
    request: Request,
    group: Sequence[Origin],
    score: float | None,
    text_of: Callable[[int], str] | None,
) -> list[Result]:
    """One task about the pictures of one batch."""
    task = model.tasks[request.task]
    texts = [request.text] * len(group)
    if text_of is not None and task.needs_text:
        texts = [text_of(origin.index) for origin in group]
    inputs = [network_input(origin.pixels, task) for origin in group]
    sizes = [tuple(origin.pixels.shape[-2:]) for origin in group]
    batch = Batch(
        task=request.task,
        source="predict",
        classes=request.classes,
        images=torch.cat(inputs).to(model.backbone.device),  # [B, 3, S, S]
        texts=texts,
        sizes=[(height, width) for height, width in sizes],
    )
    predictions = model.predict_batch(batch)
    return [
        Result.of(prediction.to("cpu"), origin, task.kind, text, score)
        for prediction, origin, text in zip(predictions, group, texts, strict=True)
    ]
