"""Weights are cast once per batch where autocast would cast them in every call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ufo.ops.autocast import autocasts


@contextmanager
def casting_once(model: nn.Module) -> Iterator[None]:
    """No gradients inside; autocast remembers the weights that it has cast until the end.

    It remembers leaves that require gradients, and none in inference mode, in which Lightning evaluates: an
    answer of twenty calls casts every weight twenty times. So inference mode is left, and frozen weights
    require gradients meanwhile. Nothing is kept for the next batch, whose weights may be others.
    """
    frozen = [p for p in model.parameters() if _is_frozen(p)] if _autocasts(model) else []
    torch.clear_autocast_cache()
    try:
        with torch.inference_mode(False), torch.no_grad():
            for weight in frozen:
                weight.requires_grad_(True)
            yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)
        torch.clear_autocast_cache()  # a cast without a gradient must not be met by a training step


def _is_frozen(weight: nn.Parameter) -> bool:
    return (
        weight.dtype == torch.float32
        and weight.is_leaf
        and not (weight.requires_grad or weight.is_inference())
    )


def _autocasts(model: nn.Module) -> bool:
    return autocasts(next(model.parameters()).device)
