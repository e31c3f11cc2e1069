"""Keys, names and arguments of a config: what nothing reads, what cannot be looked up or built."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Set
from dataclasses import fields
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from ufo.check.data import check_files
from ufo.check.values import check_values
from ufo.command_line import chosen_experiment
from ufo.data.source import Source
from ufo.errors import sentence
from ufo.head.strategy import check_settings
from ufo.ops.nearest import instead
from ufo.ops.targets import find_target
from ufo.tasks import task_names

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
        "mixing_temperature",
        "compile",
        "cuda_graphs",
        "triton_attention",
        "init",
        "strict_init",
        "resume",
        "deterministic",
        "expected",
        "released",
        "objective",
        "evaluated_split",
        "ckpt",
        "base",
        "predictions",
    ]
)

DATASET = frozenset(["info", "folder", "evaluated", "train", "val"])
BUILT = {"train", "val", "train_transform", "val_transform"}  # made of what `dataset` and `transform` hold
SOURCE = {field.name for field in fields(Source) if field.init} - BUILT | {"dataset", "transform"}

# groups whose entries have names of their own, and the key without which an entry is none
NAMED = {"tasks": "_target_", "sources": "task", "callbacks": "_target_", "logger": "_target_"}


def check_config(cfg: DictConfig) -> None:
    """Raises ValueError for keys that nothing reads, sources without a task, answers nobody can decode."""
    _check_package(cfg)
    _check_keys("", cfg, KEYS)
    _check_keys("backbone", cfg.backbone, {"module", "tokenizer", "network", "ramp"})
    _check_keys("resolution", cfg.resolution, {*task_names(), "bins"})
    _check_keys("loss_weights", cfg.loss_weights, {"token", "focal", "dice"})
    for group, key in NAMED.items():
        _check_names(group, key, cfg[group])
    tasks = [name for name, task in cfg.tasks.items() if task]
    for key, source in cfg.sources.items():
        if not source:
            continue
        check_entry(f"sources.{key}", source)
        if source.task not in tasks:
            known = source.task in task_names()
            mend = f"; add +task@tasks.{source.task}={source.task}" if known else ""
            raise ValueError(
                f"source '{key}' trains the task '{source.task}', which the mixture does not define; "
                f"it has: {', '.join(tasks)}{mend}"
            )
    check_arguments(OmegaConf.to_container(cfg, resolve=False))
    for name in tasks:
        check_settings(instantiate(cfg.tasks[name]))


def check_entry(where: str, source: DictConfig) -> None:
    """Raises ValueError for a key of a source that nothing reads."""
    _check_keys(where, map(str, source), SOURCE)
    _check_keys(f"{where}.dataset", source.dataset, DATASET | referred(source.dataset))
    _check_keys(f"{where}.transform", source.get("transform") or {}, {"train", "val"})


def referred(dataset: DictConfig) -> set[str]:
    """Keys of a data set that its splits refer to: `images: ${..pictures}` reads `pictures`.

    A run's `config.yaml` has values in place of references: there it is a text or list that a split repeats.
    """
    plain: Any = OmegaConf.to_container(dataset, resolve=False)
    values = [value for split in ("train", "val") for value in (plain.get(split) or {}).values()]
    texts = [value for value in values if isinstance(value, str)]
    keys = {key for key, value in plain.items() if isinstance(value, list) and value in values}
    keys |= {key for key, value in plain.items() if isinstance(value, str) and any(value in t for t in texts)}
    return keys | set(re.findall(r"\$\{\.\.(\w+)", OmegaConf.to_yaml(dataset, resolve=False)))


def _check_package(cfg: DictConfig) -> None:
    """Raises ValueError where a yaml's keys stand below one that its first line, or its folder, has made."""
    plain: Any = OmegaConf.to_container(cfg, resolve=False)
    for key, value in plain.items():
        moved = sorted(KEYS & set(value)) if key not in KEYS and isinstance(value, dict) else []
        if moved:
            raise ValueError(
                f"nothing reads '{moved[0]}' below the config key '{key}'; the first line of the yaml that "
                "says it must be: # @package _global_"
            )


def _check_keys(where: str, found: Iterable[str], read: Set[str]) -> None:
    unread = sorted(set(found) - read)
    if unread:
        key = f"{where}.{unread[0]}" if where else unread[0]
        raise ValueError(f"nothing reads the config key '{key}'; {instead(unread[0], read, 'keys are')}")


def _check_names(group: str, key: str, entries: DictConfig) -> None:
    """Raises ValueError for settings of something that is not there, such as `sources.captoin.weight=2`."""
    there = [str(name) for name, entry in entries.items() if entry is None or key in entry]
    for name in map(str, entries):
        if name not in there:
            hint = instead(name, there, f"{group} are")
            chosen = chosen_experiment()
            whose = f" (experiment={chosen} may: leave it out with another mixture)" if chosen else ""
            raise ValueError(f"the config has no {group}.{name} to give settings to{whose}; {hint}")


def check_arguments(value: Any, where: str = "") -> None:
    """Raises ValueError where a node gives the code that it names an argument which that does not take.

    Some of them (optimizer, schedule) would be called in the midst of training only.
    """
    if not isinstance(value, dict):
        return
    for key, child in value.items():
        check_arguments(child, f"{where}.{key}" if where else key)
    if "_target_" not in value:
        return
    if not isinstance(value.get("_partial_", False), bool):
        raise ValueError(f"{where}._partial_ must be true or false, not {value['_partial_']!r}")
    try:
        target = find_target(value["_target_"])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    try:
        parameters = inspect.signature(target).parameters
    except TypeError as error:
        raise ValueError(f"{where}: '{value['_target_']}' is no class and no function") from error
    except ValueError:  # written in C, as datetime.timedelta is: what it takes is not known
        return
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        given = {k for k in value if not (k.startswith("_") and k.endswith("_"))}
        _check_keys(where, given, set(parameters))


def check_run(cfg: DictConfig, training: bool) -> None:
    """Raises what can be wrong with a config on this machine, before a model is built or data are touched."""
    check_config(cfg)
    check_values(cfg)
    check_files(cfg, training)
    if training:
        _check_optimizer(cfg)


def _check_optimizer(cfg: DictConfig) -> None:
    """Raises ValueError where optimizer or schedule cannot be built; training builds them late."""
    try:
        optimizer = instantiate(cfg.optimizer, _convert_="all")([torch.nn.Parameter(torch.zeros(1))])
        if cfg.schedule:
            instantiate(cfg.schedule)(optimizer)
    except (TypeError, ValueError) as error:
        raise ValueError(f"optimizer or schedule cannot be built: {sentence(error)}") from error
