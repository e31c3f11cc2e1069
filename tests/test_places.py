"""Where configs and shipped weights are found: in the checkout, in a wheel, from any folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from commands import ROOT, needs_weights

from ufo import places
from ufo.checkpoints import recipes
from ufo.cli.main import main


def test_home__of_a_checkout_is_beside_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert places.conf() == ROOT / "conf"
    assert places.weights() == ROOT / "weights"


def test_home__of_a_wheel_is_the_package(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "ufo"
    (package / "conf").mkdir(parents=True)
    shutil.copy(ROOT / "conf" / "train.yaml", package / "conf")
    monkeypatch.setattr(places, "PACKAGE", package)
    assert places.conf() == package / "conf"


def test_home__without_configs_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "PACKAGE", tmp_path / "site-packages" / "ufo")
    with pytest.raises(FileNotFoundError, match="install the package again"):
        places.conf()


def test_configs__are_the_codes_own_and_what_is_written_goes_to_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf").mkdir()  # another project's
    (tmp_path / "conf" / "train.yaml").write_text("name: foreign\n")
    cfg = recipes.compose(["experiment=digits_shifted"])
    assert cfg.paths.conf == str(ROOT / "conf")
    assert cfg.init == str(ROOT / "weights" / "ufo_vit_tiny_digits")
    assert Path(cfg.paths.data).resolve() == tmp_path / "data"
    assert Path(cfg.paths.runs).resolve() == tmp_path / "runs"


def test_configs__of_a_checkout_hold_paths_that_move_with_it(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert recipes.compose([]).paths.conf == "./conf"


@needs_weights
def test_shipped__stands_for_itself_where_the_folder_has_no_such_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert places.shipped("weights/ufo_vit_tiny_digits") == ROOT / "weights" / "ufo_vit_tiny_digits"
    assert places.shipped("weights/none") is None
    assert places.shipped("elsewhere/ufo_vit_tiny_digits") is None
    (tmp_path / "weights" / "ufo_vit_tiny_digits").mkdir(parents=True)
    assert places.shipped("weights/ufo_vit_tiny_digits") is None


def test_train_and_evaluate__have_a_help_of_their_own(capsys):
    for name in ("train", "evaluate"):
        with pytest.raises(SystemExit) as done:
            main([name, "--help"])
        assert done.value.code == 0
        assert f"ufo {name}" in capsys.readouterr().out
