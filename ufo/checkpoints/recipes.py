"""What a released recipe in `conf/` says about its model: settings of tasks, vocabulary, class names.

A checkpoint made elsewhere brings weights only. The numbers stay in `conf/`, which this module composes as
`train.py` does: `experiment=ufo_vit_b_multi`. Hydra and omegaconf are imported where they are needed, which
takes a quarter of a second: our own checkpoints tell everything themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ufo import places
from ufo.checkpoints import bounds
from ufo.checkpoints.errors import CheckpointError
from ufo.tasks import task_class
from ufo.tasks.base import Task
from ufo.yaml_files import UNREADABLE

if TYPE_CHECKING:
    from omegaconf import DictConfig


def compose(overrides: Sequence[str]) -> DictConfig:
    """The config of `train.py` with these overrides, unresolved; also inside of a Hydra job.

    Raises CheckpointError where the configs lack what an override names, or name a model beyond all sizes.
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    from ufo.command_line import groups, readable, settable
    from ufo.errors import sentence

    folder = places.conf()
    overrides = [readable(override, ("resolution",)) for override in overrides]
    try:
        with _no_hydra_job(), hydra.initialize_config_dir(str(folder), version_base="1.3"):
            cfg = hydra.compose("train", overrides=settable(overrides))
    except (HydraException, *UNREADABLE) as error:
        raise CheckpointError(sentence(error, groups())) from error
    plain: Any = OmegaConf.to_container(cfg)
    try:
        bounds.check_config(plain)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    return cfg


def names_experiment(overrides: Sequence[str]) -> bool:
    """Whether overrides choose an experiment."""
    return any(override.startswith("experiment=") for override in overrides)


def experiments() -> list[str]:
    """The names that `experiment=` takes."""
    return sorted(path.stem for path in (places.conf() / "experiment").glob("*.yaml"))


def experiment_of(path: Path) -> str | None:
    """The experiment that a released file or folder of this name came from; None where none claims it."""
    from omegaconf import OmegaConf

    for file in sorted((places.conf() / "experiment").glob("*.yaml")):
        if path.name.removesuffix(".pth") not in file.read_text(encoding="utf-8"):
            continue  # parsing all of them takes a second
        settings: Any = OmegaConf.load(file)
        released = settings.get("released") or {}
        if path.name.removesuffix(".pth") in {
            str(name).removesuffix(".pth") for name in released.get("files") or ()
        }:
            return file.stem
    return None


def task_settings(cfg: DictConfig) -> dict[str, dict[str, Any]]:
    """The settings of the recipe's tasks by name, as `Task.settings`."""
    for name, task in cfg.tasks.items():
        if task and "_target_" not in task:
            known = ", ".join(n for n, t in cfg.tasks.items() if t and "_target_" in t)
            raise CheckpointError(f"conf/ composes no such recipe: it has no task '{name}'; it has: {known}")
    return {name: task.settings for name, task in make_tasks(cfg).items()}


def make_tasks(cfg: DictConfig) -> dict[str, Task]:
    """The tasks of a config by name, asked about one image as its data are evaluated."""
    from hydra.utils import instantiate

    resized = resizing(cfg)
    return {name: instantiate(task, **resized.get(name, {})) for name, task in cfg.tasks.items() if task}


def resizing(cfg: DictConfig) -> dict[str, dict[str, Any]]:
    """By task, how the images of its evaluation are resized: a model is asked about one image likewise."""
    found: dict[str, dict[str, Any]] = {}
    for source in (cfg.get("sources") or {}).values():
        transform = source.transform.get("val") if source else None
        if not transform or not source.dataset.get("val"):
            continue
        given = {key: transform[key] for key in ("interpolation", "antialias") if key in transform}
        found.setdefault(str(source.task), given)
    return found


def resolved(node: DictConfig) -> dict[str, Any]:
    """A part of the config as plain values."""
    from omegaconf import OmegaConf

    content: Any = OmegaConf.to_container(node, resolve=True)
    return content


def loss_settings(cfg: DictConfig) -> dict[str, Any]:
    """What the recipe says about the loss, as in a model's description."""
    from omegaconf import OmegaConf

    return {"loss_weights": OmegaConf.to_container(cfg.loss_weights), "mask_points": cfg.mask_points}


def class_names(task: str) -> tuple[str, ...]:
    """The class names that a released model is asked for in a task; empty for a task without classes."""
    from ufo.data.datasets.semantic import read_classes

    file = task_class(task).published_classes
    return read_classes(places.conf() / "vocab" / file) if file else ()


@contextmanager
def _no_hydra_job() -> Iterator[None]:
    """Composing needs Hydra's global state, which a running job holds: it gets it back."""
    from hydra.core.global_hydra import GlobalHydra

    job = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = job
