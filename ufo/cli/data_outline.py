"""The model that a training on a data set would have, without its weights: what it asks, reads and writes.

It is built from the config alone, on torch's meta device: a backbone of any size costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from hydra.utils import instantiate
from omegaconf.errors import OmegaConfBaseException

from ufo.backbones.base import Backbone
from ufo.cli import CommandError
from ufo.cli.data_find import Found
from ufo.errors import sentence
from ufo.model import UFO
from ufo.tasks import Task
from ufo.tokenizer import Tokenizer

CHOOSES = ("backbone=", "resolution=", "experiment=")


def make_task(found: Found, name: str) -> Task:
    """A task with the settings that the config has for it. Raises CommandError if they are incomplete."""
    settings = found.cfg.tasks.get(name) or found.task_settings(name)
    try:
        return instantiate(settings)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise CommandError(f"the settings of the task '{name}' are incomplete: {sentence(error)}") from error


def make_backbone(found: Found, vocab_size: int = 1) -> Backbone:
    """The backbone without weights: what it asks and how it cuts images into windows."""
    try:
        with torch.device("meta"):
            return instantiate(found.cfg.backbone.network, vocab_size=vocab_size)
    except Exception as error:
        raise CommandError(f"the backbone cannot be built: {sentence(error)}") from error


def outline(found: Found, tasks: Sequence[str], tokenizer: Tokenizer | None = None) -> UFO:
    """The model without weights, with its own tokenizer or another.

    Raises CommandError, and OSError where its vocabulary is not here.
    """
    made = {name: make_task(found, name) for name in tasks}
    tokenizer = tokenizer or instantiate(found.cfg.backbone.tokenizer)
    with torch.device("meta"):
        return UFO(make_backbone(found, len(tokenizer)), tokenizer, made)


def described(model: UFO, overrides: Sequence[str]) -> str:
    """One line about the model, and whether anything of it was chosen."""
    sizes = sorted({task.image_size for task in model.tasks.values()})
    line = (
        f"model: {type(model.backbone).__name__}, {' or '.join(map(str, sizes))} px, a vocabulary of "
        f"{len(model.tokenizer):,} words, prompts of up to {model.prompt_limit} tokens"
    )
    chosen = any(override.lstrip("+").startswith(CHOOSES) for override in overrides)
    return line if chosen else line + " (train.py's defaults; choose with backbone=, resolution=)"
