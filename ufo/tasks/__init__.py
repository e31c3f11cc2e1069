"""Tasks: one file each, found by name. Adding one needs no other change here."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from ufo.kinds import Kind
from ufo.ops.nearest import instead
from ufo.tasks.base import Answers, Asked, Task

__all__ = ["Answers", "Asked", "Task", "kind_of", "make_task", "task_class", "task_names"]


def _classes() -> dict[str, type[Task]]:
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    found, pending = {}, [Task]
    while pending:
        for cls in pending.pop().__subclasses__():
            pending.append(cls)
            if isinstance(vars(cls).get("name"), str):  # a subclass that states no name is not another task
                found[cls.name] = cls
    return found


def task_names() -> list[str]:
    """The names of all tasks."""
    return sorted(_classes())


def task_class(name: str) -> type[Task]:
    """The task of that name. Raises ValueError if there is none."""
    classes = _classes()
    if name not in classes:
        raise ValueError(f"unknown task '{name}'; {instead(name, classes, 'there are')}")
    return classes[name]


def kind_of(name: str) -> Kind:
    """What kind of result the answers of the task of that name are. Raises ValueError if there is none."""
    return task_class(name).kind


def make_task(name: str, **settings: Any) -> Task:
    """A task by its name, for example from a checkpoint's config. Raises ValueError for an unknown one."""
    return task_class(name)(**settings)
