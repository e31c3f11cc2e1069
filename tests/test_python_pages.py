"""The code of docs/python_training.md runs, block after block; what `ufo.parts` says of wrong overrides."""

from __future__ import annotations

import hydra
import pytest
from commands import CONF, ROOT, needs_weights
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from test_docs import blocks

from ufo.parts import compose

TRAINING = ROOT / "docs" / "python_training.md"


@needs_weights
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_code_of_the_page_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("peft")
    monkeypatch.chdir(tmp_path)
    space: dict = {}
    for block in blocks("python", TRAINING):
        exec(compile(block, TRAINING.name, "exec"), space)
    said = capsys.readouterr().out
    assert "2601152 of 2626688" in said and "'mAP75': 0.99" in said and "digits/detection" in said
    assert (tmp_path / "squares" / "config.json").is_file()
    assert space["model"].backbone.lora and space["model"].classes["detection"]


def test_a_composed_config_is_resolved_and_hydra_is_as_before(monkeypatch):
    monkeypatch.chdir(ROOT)
    job = HydraConfig.instance().cfg
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("experiment=digits", "resolution=112", "trainer.limit_val_batches=2", "name=mine")
        assert hydra.compose("train").seed == 0
    assert HydraConfig.instance().cfg is job
    assert cfg.trainer.limit_val_batches == 2 and cfg.trainer.default_root_dir == "./runs/mine"
    assert "${" not in OmegaConf.to_yaml(cfg) and "hydra" not in cfg
    assert compose("experiment=digits").name == "digits"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("sede=3", "the config has no key 'sede'; did you mean 'seed'"),
        ("experiment=digts", "there is no experiment 'digts'; did you mean 'digits'"),
    ],
)
def test_a_wrong_override_is_one_sentence(override, words):
    with pytest.raises(ValueError, match=words):
        compose("mixture=digits", override)


def test_own_configs_are_found(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "mine.yaml").write_text("# @package sources.mine\nname: mine/detection\n")
    assert compose("+source=mine", folders=[tmp_path]).sources.mine.name == "mine/detection"
