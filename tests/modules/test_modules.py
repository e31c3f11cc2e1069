"""A module refuses a model of another backbone."""

import pytest

from ufo.modules.internvl import InternVLModule
from ufo.modules.ufo_vit import UFOViTModule


def test_module__is_for_one_kind_of_backbone(make_model):
    model = make_model()
    assert UFOViTModule(model).model is model
    with pytest.raises(TypeError, match="trains InternVL, not UFOViT"):
        InternVLModule(model)
