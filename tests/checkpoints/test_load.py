"""The project's own checkpoints: a round trip, strictness, and what a kill or a full disk leaves behind."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from trainers import quiet_trainer

import ufo
from ufo import files
from ufo.checkpoints import model_folder
from ufo.checkpoints.load import CheckpointError, check_base, check_same_model, initialise, load, read, save
from ufo.model import UFO
from ufo.modules.base import UFOModule
from ufo.tokenizer import UFOTokenizer
from ufo.types import Prediction


def same_weights(left: UFO, right: UFO) -> bool:
    ours, theirs = left.state_dict(), right.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def same_prediction(left: Prediction, right: Prediction) -> bool:
    for name in ("boxes", "scores", "labels", "masks", "semantic"):
        a, b = getattr(left, name), getattr(right, name)
        if (a is None) != (b is None) or (a is not None and not torch.equal(a, b)):
            return False
    return (left.text, left.classes) == (right.text, right.classes)


# ---------------------------------------------------------------- round trip


def test_a_loaded_model_is_the_saved_one(model, folder):
    loaded = ufo.load(folder)
    assert same_weights(loaded, model)
    assert loaded.describe() == model.describe()
    assert loaded.tasks == model.tasks
    assert loaded.classes == model.classes
    assert not loaded.training


def test_a_loaded_model_predicts_the_same(model, folder, task_name, make_batch):
    batch = make_batch(task_name)
    pairs = zip(model.predict_batch(batch), load(folder).predict_batch(batch), strict=True)
    assert all(same_prediction(left, right) for left, right in pairs)


def test_weights_lie_where_those_of_any_other_file_would(folder):
    """A file may put them anywhere; products of a CPU differ in last bits by where they begin."""
    stored = load_file(folder / "model.safetensors")
    assert any(x.data_ptr() % 64 for x in stored.values())
    assert not any(p.data_ptr() % 64 for p in load(folder).parameters())


def test_a_folder_holds_three_readable_files(model, folder):
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "vocab.txt"]
    assert json.loads((folder / "config.json").read_text())["format"] == model_folder.FORMAT
    assert [p.name for p in folder.parent.iterdir()] == ["model"]  # no scratch folder is left


def test_settings_survive(make_backbone, make_tiny_task, tokenizer, tmp_path):
    """None of these is a default."""
    task = make_tiny_task("detection", num_beams=3, temperature=1.5, length_penalty=10.0, nms_iou=0.3)
    backbone = make_backbone(query_update_at_global="always", drop_path_rate=0.2, mean_layers=[1, 3])
    model = UFO(backbone, tokenizer, {"detection": task}, {"detection": ["ä", "b c"]}, {"token": 2.0}, 7)
    loaded = load(save(model, tmp_path / "model"))
    assert loaded.describe() == model.describe()
    assert loaded.tasks["detection"] == task
    assert loaded.classes["detection"] == ("ä", "b c")
    assert (loaded.loss_weights, loaded.mask_points) == ({"token": 2.0}, 7)


@pytest.fixture
def run(model, make_batch, tmp_path) -> Path:
    """The folder of a run with one training step behind it."""
    module = UFOModule(model, lambda groups: torch.optim.SGD([g["params"][0] for g in groups], lr=0.1))
    module._optimizer = _Optimizer()
    trainer = quiet_trainer(
        default_root_dir=tmp_path,
        max_steps=1,
    )
    module.train()  # what was loaded or saved predicts
    trainer.fit(module, DataLoader([make_batch("caption")], batch_size=None))
    trainer.save_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    return tmp_path / "run"


class _Optimizer:
    keywords: ClassVar[dict] = {"lr": 0.1}

    def __call__(self, groups):
        return torch.optim.SGD(groups)


def test_a_lightning_checkpoint_and_the_folder_of_a_run_load(run, model):
    for path in (run, run / "checkpoints" / "last.ckpt"):
        loaded = load(path)
        assert same_weights(loaded, model)
        assert loaded.describe() == model.describe()
    path = run / "checkpoints" / "last.ckpt"
    check_same_model(model, read(path)[0], path)
    check_base(model, path)


# ---------------------------------------------------------------- strictness


def test_loading_prints_one_line(folder, caplog):
    with caplog.at_level("INFO", logger="ufo"):
        load(folder)
    (line,) = [r.getMessage() for r in caplog.records if "matched" in r.getMessage()]
    count = len(load_file(folder / "model.safetensors"))
    assert f"{count} weights matched, 0 missing, 0 unexpected" in line


def test_weights_must_match(folder):
    weights = load_file(folder / "model.safetensors")
    name = "backbone.layers.1.qkv.weight"
    changes = {
        f"missing {name}": {k: v for k, v in weights.items() if k != name},
        "unexpected backbone.neck": {**weights, "backbone.neck": torch.zeros(2)},
        f"{name}: (3, 2), not (48, 16)": {**weights, name: torch.zeros(3, 2)},
    }
    for message, changed in changes.items():
        save_file(changed, folder / "model.safetensors")
        with pytest.raises(CheckpointError) as error:
            load(folder)
        assert message in str(error.value) and "another model" in str(error.value)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "vocab.txt"])
def test_a_damaged_folder(folder, file):
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[: len(content) // 2])
    with pytest.raises((CheckpointError, ValueError)) as error:
        load(folder)
    if file != "vocab.txt":
        assert "damaged" in str(error.value) and str(folder) in str(error.value)
    (folder / file).unlink()
    with pytest.raises(CheckpointError, match=f"lacks {file}"):
        load(folder)


def test_starting_from_weights(model, folder, make_model):
    other = make_model(seed=1)
    assert not same_weights(other, model)
    initialise(other, folder)
    assert same_weights(other, model)


def test_starting_from_another_architecture_names_both(folder, make_model):
    with pytest.raises(CheckpointError) as error:
        initialise(make_model(width=32, heads=4), folder)
    for words in ("UFOViT", "width=16 there, 32 here", "heads=2 there, 4 here", str(folder)):
        assert words in str(error.value)


def test_settings_without_weights_may_differ(folder, make_model, model):
    other = make_model(seed=1, drop_path_rate=0.3, text_dropout=0.1, gradient_checkpointing=True)
    initialise(other, folder)
    assert same_weights(other, model)


def test_starting_from_another_vocabulary_is_refused_if_asked(folder, make_model, tokenizer):
    """The same size and other words: shapes alone would not tell."""
    words = list(tokenizer.vocab)
    words[-1], words[-2] = words[-2], words[-1]
    other = make_model(seed=1)
    before = {k: v.clone() for k, v in other.state_dict().items()}
    other.tokenizer = UFOTokenizer(words)
    with pytest.raises(CheckpointError, match="another vocabulary"):
        initialise(other, folder, strict=True)
    assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items())


def test_going_on_needs_the_same_architecture(run, make_model):
    path = run / "checkpoints" / "last.ckpt"
    with pytest.raises(CheckpointError, match="width=16 there, 32 here"):
        check_same_model(make_model(width=32, heads=4), read(path)[0], path)


# ---------------------------------------------------------------- nothing is executed


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("place", ["ufo", "state_dict", "callbacks"])
def test_loading_never_executes_code(run, tmp_path, place):
    """A real checkpoint of this project with something else hidden in it."""
    path, witness = run / "checkpoints" / "last.ckpt", tmp_path / "executed"
    content = torch.load(path, weights_only=True)
    content[place] = {**content.get(place, {}), "x": Bomb(witness)}
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="nothing was run"):
        load(path)
    assert not witness.exists()
    torch.load(path, weights_only=False)  # what a careless reader would have done
    assert witness.exists()


def test_a_folder_can_only_name_known_classes(folder):
    config = json.loads((folder / "config.json").read_text())
    config["backbone"]["type"] = "os.system"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises((CheckpointError, ValueError), match="unknown backbone"):
        load(folder)


# ---------------------------------------------------------------- kills and full disks


class Killed(BaseException):
    """As a signal would: nothing in the code expects it."""


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def killed(*_, **__):
    raise Killed


def nth(number: int, failure, real):
    """`real` that fails at its n-th call."""
    calls = []

    def function(*args, **kwargs):
        calls.append(args)
        return failure() if len(calls) == number else real(*args, **kwargs)

    return function


@pytest.mark.parametrize("failure", [full_disk, killed])
@pytest.mark.parametrize("where", ["save_file", "first rename", "second rename"])
@pytest.mark.parametrize("cleanup", [True, False])
def test_a_save_that_fails_leaves_the_previous_model(
    folder, model, make_model, monkeypatch, failure, where, cleanup
):
    new = make_model(seed=1)
    with monkeypatch.context() as patch:
        if not cleanup:  # SIGKILL: no `except` and no `finally` puts anything back
            patch.setattr(files.shutil, "rmtree", lambda *_, **__: None)
        if where == "save_file":
            patch.setattr(model_folder, "save_file", failure)
        else:
            number = 1 if where == "first rename" else 2
            rename = nth(number, failure, os.rename)
            if not cleanup and number == 2:  # nor does it get to a third rename
                rename = nth(3, killed, rename)
            patch.setattr(files.os, "rename", rename)
        with pytest.raises((CheckpointError, Killed)) as error:
            save(new, folder)
    if failure is full_disk and isinstance(error.value, CheckpointError):
        assert "No space left" in str(error.value) and str(folder) in str(error.value)
    assert same_weights(load(folder), model)
    save(new, folder)
    assert same_weights(load(folder), new)
    assert not (folder.parent / ".model.old").exists()


def test_a_first_save_that_fails_leaves_nothing(model, tmp_path, monkeypatch):
    monkeypatch.setattr(model_folder, "save_file", full_disk)
    with pytest.raises(CheckpointError, match="No space left"):
        save(model, tmp_path / "deep" / "model")
    assert list((tmp_path / "deep").iterdir()) == []


def test_other_folders_are_not_overwritten(model, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(CheckpointError, match="not a model folder"):
        save(model, tmp_path / "photos")
    assert [p.name for p in tmp_path.rglob("*")] == ["photos", "cat.jpg"]


def test_a_folder_of_runs_names_the_newest(tmp_path):
    for time, name in enumerate(("old", "new", "middle", "older", "oldest")):
        file = tmp_path / name / ("config.json" if name == "old" else "checkpoints/last.ckpt")
        file.parent.mkdir(parents=True)
        file.touch()
        age = {"new": 0, "middle": 1}.get(name, 2 + time)
        os.utime(file, (10_000 - age,) * 2)
    (tmp_path / "photos").mkdir()
    with pytest.raises(CheckpointError) as error:
        load(tmp_path)
    said = str(error.value)
    assert f"'{tmp_path}' holds runs" in said and f"as '{tmp_path / 'new'}', the newest" in said
    assert said.endswith("and 1 more") and "photos" not in said


def test_a_run_that_saved_nothing_yet_says_so(tmp_path):
    (tmp_path / "status.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"has no checkpoint; its status\.json"):
        load(tmp_path)


@pytest.mark.parametrize("inside", ["", "model", "state_dict"])
@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.", "model."])
def test_weights_alone_say_how_to_save_them(model, tmp_path, inside, wrapper):
    state = {wrapper + name: value for name, value in model.state_dict().items()}
    torch.save({inside: state, "optimizer": {}} if inside else state, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r"model\.save_pretrained\(folder\), or .*load_state_dict"):
        load(tmp_path / "weights.pt")


def test_the_file_of_a_folder_names_the_folder(folder):
    with pytest.raises(CheckpointError, match="give the folder") as error:
        load(folder / "model.safetensors")
    assert str(error.value).endswith(f"'{folder}'")


def test_ufo_load_takes_devices_as_predict_does(folder):
    assert ufo.load(folder, device="auto").device.type in ("cpu", "cuda")
    assert ufo.load(folder, torch.device("cpu")).device == torch.device("cpu")
    for device in ("cuda", 0) if not torch.cuda.is_available() else ("tpu",):
        with pytest.raises(ValueError, match="device="):
            ufo.load(folder, device=device)


def test_classes_for_type_hints_are_at_the_top(model):
    assert ufo.UFO is type(model)
    assert issubclass(ufo.Results, dict) and ufo.Result.__name__ == "Result"
    with pytest.raises(AttributeError, match="no attribute 'Model'"):
        ufo.Model  # noqa: B018
