"""The sources that a trainer draws from and evaluates."""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch import Trainer

from ufo.data.source import Source
from ufo.lightning_private import settings


def sources_of(trainer: Trainer) -> Sequence[Source]:
    """Those of the trainer's data; none where it has data of another kind, or only a loader."""
    found: Sequence[Source] = getattr(settings(trainer).datamodule, "sources", ())
    return found
