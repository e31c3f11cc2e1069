"""Configs that are composed from memory are those that Hydra composes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import composing
import hydra
import pytest
from commands import CONF
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from ufo.command_line import searched, settable

pytestmark = pytest.mark.heavy


def composed(*overrides: str, config: str = "train", folder: Path = CONF) -> DictConfig:
    with hydra.initialize_config_dir(str(folder), version_base="1.3"):
        return hydra.compose(config, settable(overrides), return_hydra_config=True)


def as_it_is(compose: Callable[[], DictConfig]) -> DictConfig:
    """What Hydra composes without this memory."""
    composing.forget()
    try:
        return compose()
    finally:
        composing.remember()


@pytest.mark.parametrize(
    "overrides",
    [
        ("experiment=digits", "seed=3", "++tasks.detection.num_beams=3", "~callbacks.pictures"),
        ("hydra/launcher=joblib", "transform@sources.detection.transform=square", "+source=[coco_caption]"),
    ],
    ids=" ".join,
)
def test_it_is_what_hydra_composes(overrides):
    expected = as_it_is(lambda: composed(*overrides))
    for _ in range(2):
        found = composed(*overrides)
        assert found == expected and OmegaConf.to_yaml(found) == OmegaConf.to_yaml(expected)
        for cfg in (found, found.optimizer, found.hydra):
            assert OmegaConf.is_struct(cfg)
        found.seed, found.optimizer.lr = -1, -1  # what becomes of one is nothing to the next


@pytest.fixture
def configs(tmp_path) -> Path:
    """A config of two groups; the second is chosen by the first."""
    for name, text in {
        "main": "defaults: [_self_, bird: owl, tree: '${bird}_tree']\nseed: 1",
        "bird/owl": "legs: 2",
        "bird/emu": "legs: 2\nflies: false",
        "tree/owl_tree": "high: true",
        "tree/emu_tree": "high: false",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text(text)
    shutil.copytree(CONF / "hydra", tmp_path / "hydra")  # see hydra_plugins/ufo_configs.py
    return tmp_path


def test_a_choice_that_refers_to_another(configs):
    found = [composed(bird, config="main", folder=configs).tree.high for bird in ("bird=owl", "bird=emu")]
    assert found == [True, False]


def test_files_that_change_are_read_again(configs):
    file = configs / "bird" / "owl.yaml"
    assert composed(config="main", folder=configs).bird == {"legs": 2}
    file.write_text("legs: 3")  # of the same size
    os.utime(file, ns=(0, 0))
    assert composed(config="main", folder=configs).bird == {"legs": 3}
    (configs / "more" / "bird").mkdir(parents=True)
    with pytest.raises(HydraException, match="kiwi"):
        composed("bird=kiwi", "tree=owl_tree", config="main", folder=configs)
    (configs / "more" / "bird" / "kiwi.yaml").write_text("legs: 4")
    more = searched(configs / "more")
    assert composed("bird=kiwi", "tree=owl_tree", more, config="main", folder=configs).bird == {"legs": 4}


def test_what_the_code_registers_is_looked_at_again(configs):
    for legs in (5, 6):
        ConfigStore.instance().store(group="bird", name="registered", node={"legs": legs})
        cfg = composed("bird=registered", "tree=owl_tree", config="main", folder=configs)
        assert cfg.bird.legs == legs
    del ConfigStore.instance().repo["bird"]


@pytest.mark.parametrize(
    "text",
    ["defaults: [nothing]", "legs: [2", "legs: 2\nlegs: 3", "# @package hydra.job\nchdir: {a: 1}"],
)
def test_errors_are_those_of_hydra(configs, text):
    (configs / "bird" / "owl.yaml").write_text(text)
    compose = lambda: composed(config="main", folder=configs)  # noqa: E731
    with pytest.raises(Exception) as expected:
        as_it_is(compose)
    for _ in range(2):
        with pytest.raises(type(expected.value)) as found:
            compose()
        assert str(found.value) == str(expected.value)
