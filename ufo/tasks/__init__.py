"""Tasks: one file each, here or in an extension, found by name. Adding one needs no other change here."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from ufo import extensions
from ufo.kinds import Kind
from ufo.ops.nearest import instead
from ufo.tasks.base import Answers, Asked, Task

__all__ = ["Answers", "Asked", "Task", "kind_of", "make_task", "task_class", "task_names"]


def _classes() -> dict[str, type[Task]]:
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    extensions.load()
    found: dict[str, type[Task]] = {}
    pending: list[type[Task]] = [Task]  # type: ignore[type-abstract]  # only its subclasses are built
    while pending:
        for cls in pending.pop().__subclasses__():
            pending.append(cls)
            if isinstance(vars(cls).get("name"), str):  # a subclass that states no name is not another task
                _check_one(cls, found.get(cls.name, cls))
                found[cls.name] = cls
    return found


def _check_one(cls: type[Task], other: type[Task]) -> None:
    """Raises ValueError for two tasks of one name; a class that was defined again is the same task."""
    one, two = (f"{c.__module__}.{c.__qualname__}" for c in (other, cls))
    if one != two:
        raise ValueError(f"{one} and {two} are both the task '{cls.name}'; give one of them another name")


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
