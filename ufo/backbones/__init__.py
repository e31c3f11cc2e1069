"""Backbones: one file each, found by class name. Adding one needs no other change here."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Any

from ufo.backbones.base import Backbone
from ufo.backbones.context import AnswerCache, Context, LayerMemory

__all__ = ["AnswerCache", "Backbone", "Context", "LayerMemory", "make_backbone"]


def make_backbone(type: str, **arguments: Any) -> Backbone:
    """A backbone by its class name, for example from a checkpoint's config.

    Raises ValueError for an unknown one.
    """
    wanted = type.replace("_", "").lower()
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    modules = sorted(names, key=lambda name: name.replace("_", "") != wanted)  # this one first
    for module in modules:
        try:
            importlib.import_module(f"{__name__}.{module}")
        except ModuleNotFoundError as error:  # of an optional library that only some backbones need
            if module.replace("_", "") == wanted:
                raise ValueError(
                    f"the backbone '{type}' needs {error.name}: pip install 'ufo-vision[mllm]'"
                ) from error
            continue
        classes = {cls.__name__: cls for cls in _subclasses(Backbone)}  # type: ignore[type-abstract]  # only its subclasses are built
        if type in classes:
            break
    else:
        raise ValueError(f"unknown backbone '{type}'; there are: {', '.join(sorted(classes))}")
    return classes[type](**arguments)


def _subclasses(cls: type[Backbone]) -> list[type[Backbone]]:
    """All classes below one that can be built."""
    found = []
    for child in cls.__subclasses__():
        found += ([] if inspect.isabstract(child) else [child]) + _subclasses(child)
    return found
