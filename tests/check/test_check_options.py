"""An option that the code behind `_target_` does not take: the nearest one is said, not Python's words."""

from __future__ import annotations

import sys

import pytest
from commands import compose
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from ufo.check import check_arguments
from ufo.errors import sentence
from ufo.ops.targets import find_target


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


def test_options_of_code_in_c_are_left_to_it():
    """Python does not know what it takes: it was called no class, and its own error ended in another one."""
    check_arguments({"train_time_interval": {"_target_": "datetime.timedelta", "minutes": 30}})
    with pytest.raises(ValueError, match="is no class and no function"):
        check_arguments({"every": {"_target_": "math.pi"}})
    with pytest.raises(InstantiationException) as error:
        instantiate({"_target_": "torch.Generator", "sead": 1})
    assert "unexpected keyword argument 'sead'" in sentence(error.value)


def test_the_example_of_a_target_is_one():
    with pytest.raises(ValueError, match="names nothing") as error:
        find_target("")
    assert find_target(str(error.value).rpartition(" ")[2]).name == "caption"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ufo.tasks.detection.Detectoin", "did you mean 'ufo.tasks.detection.Detection'?"),
        ("ufo.tsks.detection.Detection", "did you mean 'ufo.tasks'?"),
        ("ufo.tasks.detectoin.Detection", "did you mean 'ufo.tasks.detection'?"),
        ("torch.optim.AdmW", "did you mean 'torch.optim.AdamW'?"),
        ("torch.optim.Quite.Other", "'torch.optim' has nothing of that name"),
        ("nopackage.x", "no package is called 'nopackage'"),
        ("", "names nothing"),
        ("ufo..x", "names nothing"),
        (None, "no package is called 'None'"),
    ],
)
def test_a_misspelt_target_has_its_nearest_name(name, expected):
    with pytest.raises(ValueError, match=r"there is no|names nothing") as error:
        find_target(name)
    assert expected in str(error.value) and "\n" not in str(error.value)
    if name:
        with pytest.raises(InstantiationException) as raised:
            instantiate({"_target_": str(name)})
        assert expected in sentence(raised.value) and "importable" not in sentence(raised.value)


@pytest.mark.parametrize(
    "name", ["ufo.tasks.detection.Detection", "torch.optim", "ufo.tokenizer.UFOTokenizer.encode"]
)
def test_a_target_is_what_hydra_finds(name):
    assert find_target(name) is pytest.importorskip("hydra.utils").get_object(name)


def test_a_module_that_cannot_be_imported_says_why(tmp_path, monkeypatch):
    (tmp_path / "half_written.py").write_text("import not_installed_here\n")
    (tmp_path / "broken_code.py").write_text("1 / 0\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for module, reason in (
        ("half_written", "No module named 'not_installed_here'"),
        ("broken_code", "division"),
    ):
        with pytest.raises(ValueError, match=f"'{module}.Net' cannot be loaded: .*{reason}"):
            find_target(f"{module}.Net")


def test_a_config_with_a_misspelt_target_is_refused_in_one_line(capfd, caplog):
    """Hydra printed three lines before the sentence."""
    cfg = compose("experiment=digits", "tasks.detection._target_=ufo.tasks.detection.Detectoin")
    with pytest.raises(ValueError, match=r"^tasks\.detection: there is no .*did you mean .*Detection'\?$"):
        check_arguments({"tasks": OmegaConf.to_container(cfg.tasks, resolve=False)})
    assert not caplog.records and capfd.readouterr() == ("", "")
