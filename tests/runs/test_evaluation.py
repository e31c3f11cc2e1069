"""`evaluate.py ckpt=runs/X` knows what X was trained for, and believes no foreign config."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from ufo.checkpoints.errors import CheckpointError
from ufo.entry import evaluate
from ufo.runs import evaluation
from ufo.runs.evaluation import MIXTURE, of_the_run, read_config, run_of

VAL = {"_target_": "ufo.data.datasets.coco.CocoDataset", "_partial_": True, "images": "d/i"}
SOURCE = {
    "name": "owls/detection",
    "task": "detection",
    "dataset": {
        "val": {"_target_": "ufo.data.datasets.coco.CocoDataset", "_partial_": True, "images": "d/i"}
    },
}


def a_run(folder: Path, **changes) -> Path:
    config = {
        "sources": {"owls": SOURCE},
        "tasks": {"detection": {"_target_": "ufo.tasks.detection.Detection", "image_size": 112}},
        "resolution": {"detection": 112},
        "prepare": {},
        "trainer": {"precision": "bf16-mixed", "max_steps": 3},
        "logger": {"csv": {"_target_": "os.system"}},  # not about data: not read
    }
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "model").mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, **changes}))
    return folder


@pytest.fixture
def arguments(monkeypatch):
    def give(*given: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *given])
        with of_the_run():
            return sys.argv[1:]

    return give


def test_a_checkpoint_knows_its_run(tmp_path):
    run = a_run(tmp_path / "x")
    assert {run_of(run / part) for part in ("", "model", "checkpoints/last.ckpt")} == {run}
    assert run_of(tmp_path) is run_of(run / "pictures") is run_of("weights") is None


def test_the_data_of_the_run_are_the_mixture(tmp_path, arguments):
    run = a_run(tmp_path / "x")
    given = arguments(f"ckpt={run}/model", "sources.owls.batch_size=3")
    assert given[:3] == [f"mixture='{MIXTURE}'", "name='x'", "trainer.precision='bf16-mixed'"]
    node = ConfigStore.instance().load(f"mixture/{MIXTURE}.yaml").node
    assert node.sources.owls.name == "owls/detection" and "logger" not in node
    # the same command line in a further process of the evaluation
    assert arguments(*given) == given


def test_the_metrics_of_the_run_come_along(tmp_path, arguments):
    """Also those that no default names; watchers of the training, and metrics of foreign code, do not."""
    counted = {"_target_": "ufo.metrics.box_map.BoxMAP", "headline": "mAP75"}
    watchers = {
        "pictures": {"_target_": "ufo.callbacks.pictures.Pictures"},
        "other": {"_target_": "os.system"},
    }
    run = a_run(tmp_path / "x", callbacks={"strict": counted, "absent": None, **watchers})
    arguments(f"ckpt={run}")
    assert ConfigStore.instance().load(f"mixture/{MIXTURE}.yaml").node.callbacks == {"strict": counted}


@pytest.mark.parametrize(
    ("ckpt", "told", "name"),
    [
        ("weights/ufo_vit_tiny_digits", ["experiment=digits"], "ufo_vit_tiny_digits_on_digits"),
        ("{}/v1.5", ["+source=[fish,owls]"], "v1.5_on_fish-owls"),
        ("{}/v1.5", [], "v1.5"),  # it is refused later, as nothing says on what
        ("{}/birds/last.ckpt", ["mixture=digits"], "birds_last_on_digits"),
        ("{}/birds/model", ["experiment='digits'"], "birds_model_on_digits"),
        ("me/birds@v2", ["experiment=digits", "+source=owls"], "me-birds-v2_on_digits"),
    ],
)
def test_a_checkpoint_that_is_in_no_run_is_named_in_the_folder(ckpt, told, name, tmp_path, arguments):
    (tmp_path / "v1.5").mkdir()
    (tmp_path / "birds" / "model").mkdir(parents=True)
    (tmp_path / "birds" / "last.ckpt").write_bytes(b"")
    given = [f"ckpt={ckpt.format(tmp_path)}", *told]
    assert arguments(*given) == [f"name='{name}'", *given]
    assert arguments(*arguments(*given)) == arguments(*given)  # in a further process of the evaluation
    assert arguments(*given, "name=mine") == [*given, "name=mine"]


def test_a_sweep_over_checkpoints_has_one_folder(arguments):
    given = ["-m", "ckpt=weights/a,weights/b", "experiment=digits"]
    assert arguments(*given) == given


@pytest.mark.parametrize("told", ["experiment=digits", "mixture=digits", "+source=[fish]"])
def test_the_command_line_wins(told, tmp_path, arguments):
    given = [f"ckpt={a_run(tmp_path / 'x')}", told]
    data = told.partition("=")[2].strip("[]")
    assert arguments(*given) == [f"name='x_on_{data}'", *given]  # not the folder of the experiment's own run
    assert arguments(*arguments(*given)) == arguments(*given)


def test_a_run_of_the_experiment_that_is_named_has_its_own_folder(tmp_path, arguments):
    given = [f"ckpt={a_run(tmp_path / 'digits')}/model", "experiment=digits"]
    assert arguments(*given) == given


def test_a_name_and_a_precision_that_are_given_stay(tmp_path, arguments):
    given = arguments(f"ckpt={a_run(tmp_path / 'x')}", "name=y", "trainer.precision=32-true")
    assert given[0] == f"mixture='{MIXTURE}'" and len(given) == 4


def test_relative_paths_start_where_the_run_did(tmp_path):
    run = a_run(tmp_path / "x")
    (tmp_path / "d" / "i").mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"folder": str(tmp_path)}))
    assert read_config(run)["sources"]["owls"]["dataset"]["val"]["images"] == f"{tmp_path}/d/i"


def target(name: str) -> dict:
    return {"sources": {"owls": {**SOURCE, "dataset": {"val": {"_target_": name}}}}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (target("os.system"), "names os.system"),
        (target("ufo.data.prepare.os.system"), "neither a data set nor a metric"),
        (target("ufo.data.datasets.base.json.loads"), "neither a data set nor a metric"),
        (target("ufo.data.nothing.Here"), "neither a data set nor a metric"),
        ({"sources": {"owls": {**SOURCE, "name": "${oc.env:HOME}"}}}, "no interpolation"),
        ({"sources": {}}, "names no source"),
        ({"sources": [1]}, "names no source"),
    ],
)
def test_a_foreign_config_is_refused(changes, said, tmp_path):
    with pytest.raises(CheckpointError, match=said):
        read_config(a_run(tmp_path / "x", **changes))


@pytest.mark.parametrize(
    "text", ["a: &a [1]\nb: *a", "{", "- 1", "[" * 3000, "x: !!python/object:os.system {}"]
)
def test_a_damaged_config_is_refused(text, tmp_path):
    run = a_run(tmp_path / "x")
    (run / "config.yaml").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.yaml"):
        read_config(run)


def test_a_huge_config_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "LARGEST", 10)
    with pytest.raises(CheckpointError, match="larger"):
        read_config(a_run(tmp_path / "x"))


@pytest.mark.parametrize("name", ["o'brien", "a=b, [c] {d}", "back\\slash'", "${x}", "ü (1) #2"])
def test_a_run_may_be_called_anything(name, tmp_path, arguments):
    run = a_run(tmp_path / name)
    overrides = OverridesParser.create().parse_overrides(arguments(f"ckpt={run}")[:2])
    values = {o.key_or_group: o.value() for o in overrides}
    assert OmegaConf.create(values).name == name


@pytest.mark.parametrize("written", ["runs/owl", "'runs/owl'", "runs/owl/checkpoints/last.ckpt", "owl.pth"])
@pytest.mark.parametrize("told", [(), ("experiment=digits",), ("name=x", "paths.runs=runs")])
def test_nothing_is_written_where_there_is_no_checkpoint(written, told, tmp_path, monkeypatch, capsys):
    """The folder of the results made the run that was asked for, which then lacked its files."""
    a_run(tmp_path / "runs" / "owls")
    (tmp_path / "owls.pth").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(sys, "argv", ["evaluate.py", f"ckpt={written}", *told])
    with pytest.raises(SystemExit) as ended:
        evaluate.evaluate()
    error = capsys.readouterr().err.strip()
    assert ended.value.code == 1 and len(error.splitlines()) == 1
    assert error.startswith(
        f"error: no checkpoint at {written}" if "'" in written else "error: no checkpoint at"
    )
    assert "last.ckpt" in written or "owls" in error.partition("did you mean")[2]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "written", ["???", "${base}", "runs/a,runs/b", "choice(runs/a,runs/b)", "runs/it\\'s"]
)
def test_what_hydra_still_has_to_read_is_not_looked_for(written):
    evaluation.check_there([f"ckpt={written}"])
