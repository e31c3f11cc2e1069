"""Backbones: one file each, here or in an extension, found by class name. Nothing else lists them."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Any

from ufo import extensions
from ufo.backbones.base import Backbone
from ufo.backbones.context import AnswerCache, Context, LayerMemory

__all__ = ["AnswerCache", "Backbone", "Context", "LayerMemory", "make_backbone"]


def make_backbone(type: str, **arguments: Any) -> Backbone:
    """A backbone by its class name, for example from a checkpoint's config.

    Raises ValueError for an unknown one.
    """
    extensions.load()
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
        classes = _subclasses(Backbone)  # type: ignore[type-abstract]  # only its subclasses are built
        named = [cls for cls in classes if cls.__name__ == type]
        if named:
            break
    else:
        raise ValueError(f"unknown backbone '{type}'; there are: {', '.join(sorted(_names(classes)))}")
    if len(places := sorted({cls.__module__ for cls in named})) > 1:
        raise ValueError(f"there is a '{type}' in {' and in '.join(places)}; give one of them another name")
    return named[-1](**arguments)


def _names(classes: list[type[Backbone]]) -> set[str]:
    return {cls.__name__ for cls in classes}


def _subclasses(cls: type[Backbone]) -> list[type[Backbone]]:
    """All classes below one that can be built."""
    found = []
    for child in cls.__subclasses__():
        found += ([] if inspect.isabstract(child) else [child]) + _subclasses(child)
    return found
