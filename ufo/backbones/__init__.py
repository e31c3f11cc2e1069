"""Backbones: one file each, found by class name. Adding one needs no other change here."""

from __future__ import annotations

import importlib
import pkgutil

from ufo.backbones.base import AnswerCache, Backbone, Context, LayerMemory

__all__ = ["AnswerCache", "Backbone", "Context", "LayerMemory", "make_backbone"]


def make_backbone(type: str, **arguments) -> Backbone:
    """A backbone by its class name, for example from a checkpoint's config.

    Raises ValueError for an unknown one.
    """
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    classes = {cls.__name__: cls for cls in Backbone.__subclasses__()}
    if type not in classes:
        raise ValueError(f"unknown backbone '{type}'; there are: {', '.join(sorted(classes))}")
    return classes[type](**arguments)
