"""An option that the code behind `_target_` does not take: the nearest one is said, not Python's words."""

from __future__ import annotations

import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from ufo.errors import sentence


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"_target_": "ufo.data.transforms.plain", "siz": 3}, "'part.siz'; did you mean 'size'?"),
        (
            {"_target_": "torch.nn.Linear", "in_feature": 3, "out_features": 3},
            "'part.in_feature'; did you mean 'in_features'?",
        ),
    ],
)
def test_an_option_that_is_not_taken_has_its_nearest_name(settings, expected):
    with pytest.raises(InstantiationException) as error:
        instantiate(OmegaConf.create({"part": settings}))
    assert sentence(error.value) == f"nothing reads the config key {expected}"
