"""Samples of one source -> one `Batch` of plain tensors (`ufo/types.py`).

Lists of small tensors travel from the workers as views of one tensor, targets as plain bytes: torch
keeps a file descriptor open per tensor it receives, and a validation would soon run out of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch import Tensor

from ufo.types import Batch, Sample, Target


def collate(
    samples: Sequence[Sample], task: str, source: str, classes: tuple[str, ...], seed: int = 0
) -> Batch:
    """Samples of one source as one batch.

    Args:
        samples: `B` samples whose images are uint8 [3, H, W], all of one shape.
        task, source, classes, seed: see `Batch`.

    Raises:
        ValueError: the images differ in shape, or only some samples have an annotation.
    """
    images = _stack(samples, "image", source)
    assert images is not None  # every sample has one
    return Batch(
        task=task,
        source=source,
        classes=classes,
        images=images,
        texts=[s.get("text", "") for s in samples],
        boxes=_views(samples, "boxes", source),
        labels=_views(samples, "labels", source),
        masks=_views(samples, "masks", source),
        semantic=_stack(samples, "semantic", source),
        conversations=_values(samples, "conversation", source),
        sentences=_values(samples, "sentence", source),
        targets=[s["target"] for s in samples if "target" in s],
        seed=seed,
    )


def _tensors(samples: Sequence[Sample], key: str, source: str) -> list[Tensor] | None:
    """The samples' plain tensors under `key`, or `None` if they have none."""
    values = _values(samples, key, source)
    return values and [value.as_subclass(Tensor) for value in values]


def _values(samples: Sequence[Sample], key: str, source: str) -> list[Any] | None:
    """What the samples have under `key`, or `None` if they have nothing."""
    values = [s[key] for s in samples if s.get(key) is not None]  # type: ignore[literal-required]
    if not values:
        return None
    if len(values) < len(samples):
        raise ValueError(
            f"{source}: {len(values)} of {len(samples)} samples of a batch have {key!r}; a data "
            "set must give it to all of its samples or to none."
        )
    return values


def _stack(samples: Sequence[Sample], key: str, source: str) -> Tensor | None:
    values = _tensors(samples, key, source)
    if values is None:
        return None
    if len({v.shape for v in values}) > 1:
        sizes = "; ".join(
            f"{_name(s, i)}: {tuple(v.shape)}" for i, (s, v) in enumerate(zip(samples, values, strict=True))
        )
        raise ValueError(
            f"{source}: samples of a batch differ in the shape of {key!r} ({sizes}); "
            "end the transform with a resize to one size."
        )
    # for interleaved channels in half the time of `torch.stack`
    return torch.cat([v[None] for v in values]).contiguous()


def _views(samples: Sequence[Sample], key: str, source: str) -> list[Tensor] | None:
    values = _tensors(samples, key, source)
    if values is None:
        return None
    if len({v.shape[1:] for v in values}) > 1:
        return values  # masks of images that differ in shape: `_stack` has named them already
    return list(torch.cat(values).split([len(v) for v in values]))


def _name(sample: Sample, place: int) -> str:
    target = sample.get("target")
    return f"id {target.id} {target.image}".strip() if target else f"place {place}"


def _send(target: Target) -> tuple[Any, ...]:
    values = {f.name: getattr(target, f.name) for f in fields(target)}
    arrays = {k: v.numpy() for k, v in values.items() if isinstance(v, Tensor)}
    return _receive, ({k: v for k, v in values.items() if k not in arrays}, arrays)


def _receive(values: dict[str, Any], arrays: dict[str, Any]) -> Target:
    tensors: dict[str, Any] = {k: torch.from_numpy(v) for k, v in arrays.items()}
    return Target(**values, **tensors)


# only for pickling between processes: files and copies are not concerned
ForkingPickler.register(Target, _send)
