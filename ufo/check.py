"""What can be wrong with a config, said in one sentence before any training starts."""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ufo.check_data import check_files, known_classes, planned
from ufo.check_grid import check_grids
from ufo.check_texts import check_marks, check_texts
from ufo.check_values import check_values
from ufo.checkpoints.errors import CheckpointError
from ufo.command_line import chosen_experiment
from ufo.data.errors import DataError
from ufo.data.module import UFODataModule
from ufo.errors import sentence
from ufo.head.strategy import check_settings
from ufo.model import UFO
from ufo.ops.nearest import few, instead
from ufo.runs.finite import NonFiniteError
from ufo.sweeps.record import Refused
from ufo.tasks import Task, task_names
from ufo.tasks.dense import DenseTask

_NAMED = 5  # classes that one message names

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

# groups whose entries have names of their own, and the key without which an entry is none
NAMED = {"tasks": "_target_", "sources": "task", "callbacks": "_target_", "logger": "_target_"}


SETUP = (ValueError, DataError, CheckpointError, OSError, InstantiationException, OmegaConfBaseException)
"""What a user's config, files or checkpoints cause before a run begins."""
RUNNING = (DataError, CheckpointError, OSError, NonFiniteError)
"""What they cause later; a ValueError in the midst of a run is a mistake of the code."""


@contextmanager
def clear_errors(kinds: tuple[type[Exception], ...] = SETUP) -> Iterator[None]:
    """Turn an expected kind of error into one sentence; `HYDRA_FULL_ERROR=1` shows the traceback."""
    try:
        yield
    except kinds as error:
        if os.environ.get("HYDRA_FULL_ERROR"):
            raise
        print(f"error: {sentence(error)}", file=sys.stderr)
        raise Refused(sentence(error)) from error


def check_config(cfg: DictConfig) -> None:
    """Raises ValueError for keys that nothing reads, sources without a task, answers nobody can decode."""
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
        _check_keys(f"sources.{key}.dataset", source.dataset, DATASET | referred(source.dataset))
        _check_keys(f"sources.{key}.transform", source.transform, {"train", "val"})
        if source.task not in tasks:
            raise ValueError(
                f"source '{key}' trains the task '{source.task}', which the mixture does not define; "
                f"it has: {', '.join(tasks)}"
            )
    _check_arguments(OmegaConf.to_container(cfg, resolve=False))
    for name in tasks:
        check_settings(instantiate(cfg.tasks[name]))


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


def _check_arguments(value: Any, where: str = "") -> None:
    """Raises ValueError where a node gives the code that it names an argument which that does not take.

    Some of them (optimizer, schedule) would be called in the midst of training only.
    """
    if not isinstance(value, dict):
        return
    for key, child in value.items():
        _check_arguments(child, f"{where}.{key}" if where else key)
    if "_target_" not in value:
        return
    try:
        parameters = inspect.signature(get_object(value["_target_"])).parameters
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{where}: there is no '{value['_target_']}' ({sentence(error)})") from error
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
        optimizer = instantiate(cfg.optimizer)([torch.nn.Parameter(torch.zeros(1))])
        if cfg.schedule:
            instantiate(cfg.schedule)(optimizer)
    except (TypeError, ValueError) as error:
        raise ValueError(f"optimizer or schedule cannot be built: {sentence(error)}") from error


def check_known(cfg: DictConfig, model: UFO, training: bool) -> None:
    """`check_fit` with what is known of the data before they are generated or read."""
    for data in planned(cfg, training):
        check_source(model, data.source, data.task, known_classes(data.options) or ())
    for source in cfg.sources.values() if training else ():
        if source and source.get("weight", 1.0) > 0 and source.dataset.get("train"):
            _check_samples(model.task(source.task))


def _check_samples(task: Task) -> None:
    """Raises ValueError where more queries of a window are to be trained than it has."""
    if not isinstance(task, DenseTask):
        return
    wanted, there = task.samples_per_window, task.grid_per_window**2
    if not 1 <= wanted <= there:
        raise ValueError(
            f"tasks.{task.name}.samples_per_window={wanted} queries of a window cannot be trained where "
            f"grid_per_window={task.grid_per_window} makes {there}; take 1 to {there}, or a larger grid"
        )


def check_fit(model: UFO, data: UFODataModule, training: bool = True) -> None:
    """Raises ValueError where the model cannot read or write what the data asks for, in either split.

    Without `training` the training data are left alone: scenes that are drawn for an evaluation have none.
    """
    for source in data.sources:
        used = [split for split in ("train", "val") if source.has(split)]
        if source.has("val") and not (training and source.weight > 0):
            used = ["val"]
        for split in used:
            check_source(model, source.name, source.task, source.classes(split))
    check_texts(model, data)
    check_grids(model, data)


def check_source(model: UFO, source: str, task_name: str, classes: Sequence[str]) -> None:
    """Raises ValueError where a task cannot ask for the classes of a source or write their names.

    The model may be without weights. Its tokenizer must write every class, and so that an answer can be told
    from that of another class; its backbone must read all of them in one prompt.
    """
    task = model.task(task_name)
    grid = model.grid(task, task.image_size, task.image_size)
    check_settings(task, len(model.tokenizer), None if grid is None else grid.references.shape[1])
    if len(classes) > model.prompt_limit and task.prompt(classes[:2], "") != task.prompt(classes[:1], ""):
        # said at once: to write 200,000 names as tokens takes minutes
        raise _too_long(model, source, f"more than {len(classes)} tokens, one for each class and more,")
    check_marks(model, source, classes)
    _check_written(model, source, classes)
    _check_distinct(model, task, source, classes)
    length = max(len(model.tokenizer.encode([task.prompt(classes, "")])[0]), task.max_length)
    if length > model.prompt_limit:
        raise _too_long(model, source, f"{length} tokens")


def _too_long(model: UFO, source: str, length: str) -> ValueError:
    return ValueError(
        f"{source}: its prompt has {length} and the backbone reads {model.prompt_limit}; raise "
        f"{model.prompt_bound}, name fewer classes, or take a backbone= that reads more"
    )


def _check_written(model: UFO, source: str, classes: Sequence[str]) -> None:
    """Raises ValueError that names the classes that the vocabulary cannot write."""
    unknown = [name for name in classes if not model.tokenizer.can_write(name)]
    if not unknown:
        return
    named = few([f"'{name[:58]}'" for name in unknown], _NAMED)
    raise ValueError(
        f"{source}: the tokenizer has no pieces for the class{'es' if len(unknown) > 1 else ''} "
        f"{named}; `ufo data vocab SOURCE.yaml --out FILE` writes a vocabulary that has them (for a "
        "language model, which keeps its own, rename them)"
    )


def _check_distinct(model: UFO, task: Task, source: str, classes: Sequence[str]) -> None:
    """Raises ValueError for a class whose answer would be read as that of another, or of no object."""
    tokens: dict[tuple[int, ...], str] = {}
    if task.answers_background:
        (word,) = model.tokenizer.encode([task.wording.background])
        tokens[tuple(word)] = ""
    for name, written in zip(classes, model.tokenizer.encode(list(classes)), strict=True):
        other = tokens.setdefault(tuple(written), name)
        if other == "":
            raise ValueError(
                f"{source}: the class '{name}' is what the model answers where there is no object; rename it"
            )
        if other != name:
            raise ValueError(
                f"{source}: the classes '{other}' and '{name}' are the same tokens, so no answer can tell "
                "them apart; rename or join them"
            )
