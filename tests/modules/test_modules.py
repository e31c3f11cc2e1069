"""A module refuses a model of another backbone."""

import re
from pathlib import Path

import pytest

from ufo.modules.internvl import InternVLModule
from ufo.modules.strategies import ENTRIES
from ufo.modules.ufo_vit import UFOViTModule


def test_module__is_for_one_kind_of_backbone(make_model):
    model = make_model()
    assert UFOViTModule(model).model is model
    with pytest.raises(TypeError, match="trains InternVL, not UFOViT"):
        InternVLModule(model)


def test_whatever_a_module_calls_gathers_a_sharded_model_first():
    """`ENTRIES` of the strategies holds every method of `UFO` that runs the network in a module."""
    others = {"compile_backbone", "describe", "task"}  # they read no weight
    called = set()
    for path in (Path(__file__).parents[2] / "ufo" / "modules").glob("*.py"):
        called |= set(re.findall(r"self\.model\.(\w+)\(", path.read_text(encoding="utf-8")))
    assert called - others <= set(ENTRIES) and "training_pass" in called
