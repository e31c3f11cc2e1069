"""How many digit scenes a run draws: all of them, or as many as a trial of few steps can look at.

`${train_scenes:24000}` and `${val_scenes:500}` in conf/mixture/digits.yaml. Scene i is the same in every
amount. A trial's scenes are a data set of their own, in a folder of their own, so that what a command trains
on does not depend on what was drawn before. A run that goes on for more steps keeps the scenes it began with.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

SMALLEST = 256
"""Amounts are this number, doubled as often as needed: neighbouring trials share their scenes."""


def train_scenes(most: int, trainer: Mapping[str, Any], sources: Mapping[str, Any]) -> int:
    """The training scenes of a run: `most`, or enough that no scene is repeated within its steps."""
    steps = trainer.get("max_steps") or -1
    if steps < 1:
        return most
    batches = steps * trainer.get("accumulate_grad_batches", 1)
    limit = trainer.get("limit_train_batches")
    if isinstance(limit, int) and limit > 0:
        batches = min(batches, limit)
    ranks = _number(trainer.get("devices")) * _number(trainer.get("num_nodes"))
    # whichever source is drawn: all batches may be of one
    needed, amount = batches * ranks * _largest(sources, "batch_size"), SMALLEST
    while amount < needed:
        amount *= 2
    return min(most, amount)


def val_scenes(most: int, trainer: Mapping[str, Any], sources: Mapping[str, Any]) -> int:
    """The validation scenes of a run: `most`, or as many as its `limit_val_batches` batches hold.

    A run that validates nothing has those of one batch, as a source without any is refused.
    """
    limit = trainer.get("limit_val_batches")
    if not isinstance(limit, int) or isinstance(limit, bool):  # a float is a share of all
        return most
    ranks = _number(trainer.get("devices")) * _number(trainer.get("num_nodes"))
    return min(most, max(limit, 1) * ranks * _largest(sources, "val_batch_size", "batch_size"))


def suffix(train: int, all_train: int, val: int, all_val: int) -> str:
    """What is added to the name of the folder of fewer scenes than all."""
    return "" if (train, val) == (all_train, all_val) else f"_{train}_{val}"


def register() -> None:
    """Make the three known to OmegaConf."""

    def of(split: str, count: Any) -> Any:
        def amount(most: int, *, _root_: DictConfig, _parent_: DictConfig) -> int:
            if split == "train" and _evaluates(_root_):
                return 0
            begun = begun_with(_root_, str(_parent_._key()), split)
            return count(int(most), *_parts(_root_)) if begun is None else begun

        return amount

    OmegaConf.register_new_resolver("train_scenes", of("train", train_scenes), replace=True)
    OmegaConf.register_new_resolver("val_scenes", of("val", val_scenes), replace=True)
    OmegaConf.register_new_resolver("scenes_suffix", suffix, replace=True)


def begun_with(root: Mapping[str, Any], name: str, split: str) -> int | None:
    """How many scenes `prepare.<name>` of the run had that goes on here; None where none does."""
    try:
        if root.get("resume") == "never":
            return None
        runs = Path(root["paths"]["runs"])
        if not runs.is_dir():  # the name of a run takes longer to find out, and many values ask for it
            return None
        # `data list` and others compose without a run, which then has no name
        begun: Any = OmegaConf.load(runs / str(root["name"]) / "config.yaml")
        found = begun.prepare[name][split]
    except (OSError, ValueError, TypeError, AttributeError, KeyError, YAMLError, OmegaConfBaseException):
        return None
    return found if isinstance(found, int) else None


def _evaluates(root: Mapping[str, Any]) -> bool:
    """Whether it is the config of an evaluation, which trains on nothing."""
    return "ckpt" in root and root.get("evaluated_split") != "train"


def _parts(root: DictConfig) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Trainer and sources of a whole config; nothing of them where one composes a part alone."""
    return root.get("trainer") or {}, root.get("sources") or {}


def _largest(sources: Mapping[str, Any], *keys: str) -> int:
    """The largest batch of the sources that count; of several keys the first one that a source has."""
    sizes = [
        next((int(source[key]) for key in keys if source.get(key)), 1)
        for source in sources.values()
        if source and float(source.get("weight", 1.0)) > 0
    ]
    return max(sizes, default=1)


def _number(devices: Any) -> int:
    """How many devices are meant, where the config says it; "auto" counts as one."""
    if isinstance(devices, int) and devices > 0:
        return devices
    return max(len(devices), 1) if isinstance(devices, list | tuple) else 1
