"""Which data set a name on the command line means, and its config.

A name is an option of `conf/dataset`, a source of the mixture that overrides choose, or a yaml file of the
user's own: a data set (`train` and `val`) or a whole source (with `dataset`, `task`, ...).
"""

from __future__ import annotations

import difflib
import inspect
import logging
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ufo import extensions, places
from ufo.checkpoints.errors import CheckpointError
from ufo.checkpoints.recipes import compose
from ufo.cli import CommandError
from ufo.command_line import quoted, searched
from ufo.errors import sentence
from ufo.ops.nearest import beside, instead
from ufo.ops.targets import find_target
from ufo.yaml_files import check_yaml

SPLITS = ("train", "val")
HERE = "inspected"  # key of the composed config under which the data set stands
SUFFIXES = (".yaml", ".yml")


@dataclass
class Found:
    """A data set's config, resolved; `splits` holds those that it has."""

    name: str
    cfg: DictConfig  # the whole config around it
    splits: dict[str, dict[str, Any]] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    source: DictConfig | None = None  # the source of a mixture that it is part of

    def build(self, split: str) -> Any:
        """The data set of a split. Raises what its constructor raises."""
        return instantiate(self.splits[split])()

    def provides(self) -> set[str]:
        """The annotations that it may have, from its class and options alone."""
        return set().union(*(provided(options) for options in self.splits.values()))

    def task_settings(self, task: str) -> DictConfig:
        """The settings of a task that its mixture does not have. Raises CommandError if there are none."""
        if task not in extensions.options("task"):
            raise CommandError(f"there is no conf/task/{task}.yaml; choose a mixture that has the task")
        settings = _compose([f"+task@{HERE}={task}"])[HERE]
        whole: Any = OmegaConf.merge(self.cfg, {})  # a copy, in which the settings find what they refer to
        OmegaConf.update(whole, f"{HERE}_task", settings, force_add=True)
        return whole[f"{HERE}_task"]

    def tasks(self) -> list[str]:
        """The tasks that need no more than it provides."""
        return tasks_for(self.provides())


def provided(options: dict[str, Any]) -> set[str]:
    """The annotations that the loader of one split may have."""
    if parts := options.get("parts"):  # several data sets as one
        return set.intersection(*(provided(part[options["split"]]) for part in parts.values() if part))
    target = find_target(options["_target_"])
    has = set(getattr(target, "provides", ()))
    masks = inspect.signature(target).parameters.get("masks")
    if masks is not None and not options.get("masks", masks.default):
        has.discard("masks")
    return has


def tasks_for(provides: set[str] | frozenset[str]) -> list[str]:
    """The names of the tasks that need no other annotations."""
    from ufo.tasks import task_class, task_names

    return [name for name in task_names() if task_class(name).needs <= provides]


def dataset_names() -> list[str]:
    """The options of `dataset=`."""
    return extensions.options("dataset")


def find(
    name: str,
    root: Path | None = None,
    overrides: Sequence[str] = (),
) -> Found:
    """The data set that `name` means. Raises CommandError with the nearest names if there is none.

    Args:
        name: see the module.
        root: the folder of all data sets, in place of `paths.data`.
        overrides: as on the command line of `train.py`; they choose a mixture and its sources.
    """
    at = _at(root)
    if name.endswith(SUFFIXES):
        return _own(Path(name), [*at, *overrides])
    if name in dataset_names() and not overrides:
        cfg = _compose([f"+dataset@{HERE}={name}", *at])
        return _found(name, cfg, cfg[HERE])
    cfg = _compose([*at, *overrides])
    sources = {key: source for key, source in cfg.sources.items() if source}
    for key, source in sources.items():
        if name in (key, source.name):
            return _found(source.name, cfg, source.dataset, source)
    if name in dataset_names():
        cfg = _compose([f"+dataset@{HERE}={name}", *at, *overrides])
        return _found(name, cfg, cfg[HERE])
    known = [*dataset_names(), *sources, *(source.name for source in sources.values())]
    if Path(name).exists():
        kind = "folder" if Path(name).is_dir() else "file"
        raise CommandError(f"the {kind} {name} is no yaml of a source; `ufo data import` and `new` write one")
    raise CommandError(unknown(name, known) + "; a file of your own ends in .yaml")


def all_datasets(root: Path | None = None) -> Iterator[Found]:
    """Every data set of `conf/dataset`."""
    names = dataset_names()
    at = _at(root)
    cfg = _compose([*(f"+dataset@{HERE}.{name}={name}" for name in names), *at])
    for name in names:
        yield _found(name, cfg, cfg[HERE][name])


def unknown(name: str, known: Sequence[str]) -> str:
    """That there is no such data set, and what may have been meant."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "`ufo data list` shows all"
    return f"there is no data set '{name}'; {hint}"


def mixture_config(overrides: Sequence[str], root: Path | None = None) -> DictConfig:
    """The config of a mixture. Raises CommandError if it cannot be composed."""
    return _compose([*overrides, *_at(root)])


def _at(root: Path | None) -> list[str]:
    """The override that says where all data sets are."""
    return [f"paths.data={quoted(root)}"] if root else []


def _composed_with(path: Path, overrides: Sequence[str]) -> DictConfig:
    """The config with a file outside of `conf/` in it, under the key HERE."""
    with _as_group(path) as (group, folders):
        return _compose([f"+{group}@{HERE}={quoted(path.stem)}", *_searching(folders, overrides)])


@contextmanager
def _as_group(path: Path) -> Iterator[tuple[str, list[Path]]]:
    """A file's folder as a config group: its name, and the folders to search for it.

    The name is part of an override's key, which has no quotes: other names get a link for the moment.
    """
    folder = path.parent
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", folder.name):
        yield folder.name, [folder.parent]
        return
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / HERE).symlink_to(folder, target_is_directory=True)
        yield HERE, [Path(scratch), folder.parent]


def _searching(folders: Sequence[Path], overrides: Sequence[str]) -> list[str]:
    """The overrides with these folders searched for configs first."""
    start = searched(*folders)
    own = [override for override in overrides if override.startswith(f"{start.partition('[')[0]}[")]
    rest = [override for override in overrides if override not in own]
    return [start[:-1] + "," + own[-1].partition("[")[2] if own else start, *rest]


def _own(path: Path, overrides: Sequence[str]) -> Found:
    """A yaml file that is not part of `conf/`, composed as an option of the folder that it is in."""
    path = path.absolute()
    if not path.is_file():
        raise CommandError(f"there is no file {path}{beside(path)}")
    try:
        check_yaml(path)
        places.check_read(path, path.parent.parent)
    except ValueError as error:
        raise CommandError(str(error)) from error
    cfg = _composed_with(path, overrides)
    inspected = cfg.get(HERE)
    if inspected is None or not any(key in inspected for key in (*SPLITS, "dataset")):
        raise CommandError(
            f"{path} describes no data set: it needs `train` or `val` (each with _target_, as in "
            "conf/dataset/coco_instances.yaml), or `dataset` with these, if it is a source"
        )
    task = inspected.get("task")
    if task and not cfg.tasks.get(task) and task in extensions.options("task"):
        # the source's transform asks its task for the size of images
        cfg = _composed_with(path, [*overrides, f"+task@tasks.{task}={task}"])
        inspected = cfg[HERE]
    if "dataset" in inspected:
        return _found(str(inspected.get("name", path.stem)), cfg, inspected.dataset, inspected)
    return _found(path.stem, cfg, inspected)


def _plain(settings: DictConfig) -> Any:
    """Settings without references; a mapping unless the file says otherwise."""
    return OmegaConf.to_container(settings, resolve=True) if OmegaConf.is_config(settings) else settings


def _found(name: str, cfg: DictConfig, dataset: DictConfig, source: DictConfig | None = None) -> Found:
    found = Found(name, cfg, source=source)
    try:
        for split in SPLITS:
            if dataset.get(split):
                found.splits[split] = _plain(dataset[split])
        info = _plain(dataset.get("info"))
        found.info = info if isinstance(info, dict) else {}
    except OmegaConfBaseException as error:
        raise CommandError(f"the config of {name} does not resolve: {sentence(error)}") from error
    for split, options in found.splits.items():
        if not isinstance(options, dict) or "_target_" not in options:
            raise CommandError(f"the config of {name} has no `_target_` in `{split}`: it names the loader")
        _check_arguments(name, split, options)
    if source is not None:
        _check_source(name, source)
    return found


def _check_arguments(name: str, split: str, options: dict[str, Any]) -> None:
    """CommandError for a loader that is not there and for arguments that it does not take or lacks."""
    try:
        parameters = inspect.signature(find_target(options["_target_"])).parameters
    except (TypeError, ValueError) as error:
        raise CommandError(f"{name}, {split}: {error}") from error
    given = {key for key in options if not key.startswith("_")}
    for key in sorted(given - set(parameters)):
        hint = instead(key, parameters, "it takes")
        raise CommandError(f"{name}: the loader of `{split}` takes no `{key}`; {hint}")
    needed = {p.name for p in parameters.values() if p.default is p.empty and p.kind is not p.VAR_KEYWORD}
    if missing := sorted(needed - given):
        raise CommandError(f"{name}: the loader of `{split}` needs `{'`, `'.join(missing)}`")


def _check_source(name: str, source: DictConfig) -> None:
    """CommandError for what a training would refuse in the source itself: keys, numbers, transforms."""
    from ufo.check import check_arguments, check_entry, check_numbers

    key = re.sub(r"\W", "_", name.partition("/")[0])
    plain = OmegaConf.to_container(source, resolve=False)
    transform = source.get("transform")
    try:
        check_entry(f"sources.{key}", source)
        check_numbers({"sources": {key: plain}})
        if OmegaConf.is_config(transform):
            check_arguments(OmegaConf.to_container(transform, resolve=False), "transform")
    except ValueError as error:
        raise CommandError(f"{name}: {error}") from error


def _compose(overrides: Sequence[str]) -> DictConfig:
    try:
        return compose(overrides)
    except CheckpointError as error:
        raise CommandError(sentence(error.__cause__ or error)) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without the data sets' own log of problems, which a command reports in its own way."""
    logger = logging.getLogger("ufo.data")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
