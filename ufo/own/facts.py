"""What a choice depends on: facts about the data of own sources, and about this machine.

`N` images are looked at, evenly spread over the training data. Lengths are pixels of the original images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ufo.modules.precision import computes_bfloat16


@dataclass(frozen=True)
class Data:
    """One source's training data."""

    key: str  # of `sources.KEY`
    task: str
    images: int
    classes: tuple[str, ...]
    side: float  # the longer side of an image, median
    object_part: float | None  # shorter side of an object / longer side of its image, lower quartile
    objects: int  # in the images that were looked at
    looked_at: int
    has_val: bool
    texts: tuple[str, ...] = ()  # the longest ones that are asked with


@dataclass(frozen=True)
class Prompt:
    """What the longest prompt of a source is for a tokenizer."""

    tokens: int
    per_class: float  # tokens of a class name, mean; 0 without classes
    limit: int  # tokens that the backbone reads


@dataclass(frozen=True)
class Machine:
    """What computes."""

    threads: int  # that compute on the CPU
    gpu_gib: float = 0.0  # of one GPU; 0 without any
    bfloat16: bool = False  # what a CPU computes in where it can, three times as fast


def machine() -> Machine:
    """This machine: the threads that PyTorch will compute with, and the memory of its first GPU.

    The threads may be fewer than the cores: OMP_NUM_THREADS says how many.
    """
    threads, bfloat16 = torch.get_num_threads(), computes_bfloat16("cpu")
    if not torch.cuda.is_available():
        return Machine(threads, bfloat16=bfloat16)
    return Machine(threads, torch.cuda.get_device_properties(0).total_memory / 2**30, bfloat16)


def data_facts(key: str, task: str, data: Any, has_val: bool, most: int) -> Data:
    """The facts of a data set: of at most `most` samples the sizes, of all of them the number."""
    numbers = _spread(len(data), most)
    sides, parts = [], []
    for i in numbers:
        target = data.target(i)
        side = max(target.size)
        sides.append(float(side))
        if target.boxes is not None:
            shorter = (target.boxes[:, 2:] - target.boxes[:, :2]).amin(dim=1)
            parts += (shorter / side).tolist()
    return Data(
        key=key,
        task=task,
        images=len(data),
        classes=tuple(data.classes),
        side=_quantile(sides, 0.5) or 0.0,
        object_part=_quantile(parts, 0.25),
        objects=len(parts),
        looked_at=len(numbers),
        has_val=has_val,
        texts=_longest([data.said(i)[0] for i in numbers]) if hasattr(data, "said") else (),
    )


def _spread(length: int, most: int) -> list[int]:
    """At most `most` numbers below `length`, evenly spread."""
    count = min(length, most)
    return [i * length // count for i in range(count)]


def _longest(texts: Sequence[str], most: int = 8) -> tuple[str, ...]:
    """The texts with the most characters: one of them has the most tokens."""
    return tuple(sorted(set(texts), key=len)[-most:])


def _quantile(values: Sequence[float], part: float) -> float | None:
    return sorted(values)[int(part * (len(values) - 1))] if values else None
