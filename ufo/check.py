"""What can be wrong with a config, said in one sentence before any training starts."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.errors import InstantiationException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ufo.checkpoints.native import CheckpointError
from ufo.data.errors import DataError
from ufo.data.module import UFODataModule
from ufo.model import UFO

# every key that `ufo.build` or an entry point reads; a key that nothing reads is an error
KEYS = frozenset(
    [
        "paths",
        "backbone",
        "resolution",
        "tasks",
        "sources",
        "prepare",
        "lora",
        "optimizer",
        "schedule",
        "trainer",
        "callbacks",
        "logger",
        "module",
        "name",
        "seed",
        "loss_weights",
        "mask_points",
        "num_workers",
        "compile",
        "init",
        "resume",
        "deterministic",
        "expected",
        "ckpt",
    ]
)


def quote_numbers(*groups: str) -> None:
    """Let options of a config group be named by numbers: `resolution=1120` on the command line.

    Hydra takes a bare number for an integer and then refuses it as the name of an option.
    """
    for i, argument in enumerate(sys.argv[1:], start=1):
        key, equals, value = argument.partition("=")
        if equals and key.lstrip("+") in groups:
            quoted = ",".join(f"'{v}'" if v.isdigit() else v for v in value.split(","))
            sys.argv[i] = f"{key}={quoted}"


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn an expected kind of error into one sentence; `HYDRA_FULL_ERROR=1` shows the traceback."""
    try:
        yield
    except (
        ValueError,
        DataError,
        CheckpointError,
        FileNotFoundError,
        InstantiationException,
        OmegaConfBaseException,
    ) as error:
        if os.environ.get("HYDRA_FULL_ERROR"):
            raise
        print(f"error: {_innermost(error)}", file=sys.stderr)
        sys.exit(1)


def _innermost(error: BaseException) -> str:
    """The message of the error that caused this one: Hydra wraps what a constructor says."""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())


def check_config(cfg: DictConfig) -> None:
    """Raises ValueError for keys that nothing reads and for sources without a task."""
    unread = sorted(set(cfg) - KEYS)
    if unread:
        raise ValueError(f"nothing reads the config key '{unread[0]}'; keys are: {', '.join(sorted(KEYS))}")
    unknown = sorted(set(cfg.loss_weights) - {"token", "focal", "dice"})
    if unknown:
        raise ValueError(f"there is no loss '{unknown[0]}'; loss_weights are for token, focal and dice")
    if cfg.lora.enabled:
        raise ValueError("UFO-ViT has no adapters; use lora=none")
    tasks = [name for name, task in cfg.tasks.items() if task]
    for key, source in cfg.sources.items():
        if source and source.task not in tasks:
            raise ValueError(
                f"source '{key}' trains the task '{source.task}', which the mixture does not define; "
                f"it has: {', '.join(tasks)}"
            )


def check_fit(model: UFO, data: UFODataModule) -> None:
    """Raises ValueError where the model cannot read or write what the data asks for."""
    limit = model.backbone.config.get("max_positions")
    for source in data.sources:
        split = "train" if source.has("train") and source.weight > 0 else "val"
        classes = source.data(split).classes
        task = model.task(source.task)
        model.grid(task, task.image_size, task.image_size)
        unwritable = [c for c in classes if not model.tokenizer.can_write(c)]
        if unwritable:
            raise ValueError(
                f"{source.name}: the tokenizer has no pieces for the class '{unwritable[0]}'; use a "
                "vocabulary that covers it"
            )
        length = len(model.tokenizer.encode([task.prompt(classes, "")])[0])
        if limit and max(length, task.max_length) > limit:
            raise ValueError(
                f"{source.name}: its prompt has {length} tokens and the backbone reads {limit}; raise "
                "backbone.network.max_positions"
            )
