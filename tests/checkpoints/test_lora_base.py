"""A LoRA is kept apart from its base, in folders and in Lightning's checkpoints, and found again with it."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_mllm import learn, make_mllm, outputs, plain, prepared, training_batch
from torch.utils.data import DataLoader
from trainers import quiet_trainer

import ufo
from ufo.backbones.lora import frozen
from ufo.checkpoints.errors import CheckpointError
from ufo.checkpoints.load import check_base, check_same_model, initialise, load, read, save
from ufo.model import UFO
from ufo.modules.base import UFOModule

pytestmark = pytest.mark.heavy

EMBED, HEAD = "model.language_model.embed_tokens.weight", "lm_head.weight"
NORM = "model.language_model.norm.weight"


@pytest.fixture
def trained(family, start):
    """A LoRA after training, in memory and in a folder beside its base."""
    model = prepared(family)
    initialise(model, start[0])
    learn(model)
    return model, save(model, start[0].parent / "lora")


def test_a_lora_holds_only_what_was_trained(trained, start):
    model, path = trained
    saved = load_file(path / "model.safetensors")
    names = {f"backbone.{k}" for k, p in model.backbone.named_parameters() if p.requires_grad}
    assert saved.keys() == names
    assert all(".lora_" in n or n.endswith((EMBED, HEAD, NORM)) for n in names)
    description = json.loads((path / "config.json").read_text())
    assert description["base"]["name"] == str(start[0]) and len(description["base"]["fingerprint"]) == 16
    assert description["lora"]["r"] == 4


def test_a_lora_is_found_again_with_its_base(trained):
    model, path = trained
    loaded = ufo.load(path)
    assert torch.equal(outputs(loaded), outputs(model))
    assert loaded.describe() == model.describe()
    assert {k for k in frozen(loaded.backbone)} == {k for k in frozen(model.backbone)}


def test_a_lora_on_another_base_is_refused(family, trained, start):
    _, path = trained
    other = make_mllm(family, seed=7).backbone.net
    other.resize_token_embeddings(start[2], mean_resizing=False)
    other.save_pretrained(path.parent / "other")
    with pytest.raises(CheckpointError, match=r"is for another base than .*it was trained on") as error:
        load(path, base=path.parent / "other")
    assert "\n" not in str(error.value)
    # nothing but a changed layer of the same file is noticed too
    weights = load_file(start[0] / "model.safetensors")
    name = next(k for k in weights if "layers.1.mlp.up_proj" in k)
    save_file({**weights, name: weights[name] * 1.1}, start[0] / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="is for another base"):
        load(path)


def test_a_base_that_moved(trained, start):
    model, path = trained
    start[0].rename(path.parent / "moved")
    with pytest.raises(CheckpointError, match=r"only what was trained, and its base .* --base"):
        load(path)
    assert torch.equal(outputs(load(path, base=path.parent / "moved")), outputs(model))


def test_a_training_goes_on_from_a_lora_whose_base_has_moved(family, trained, start):
    """And remembers where the base is now."""
    model, path = trained
    moved = start[0].rename(path.parent / "moved")
    again = prepared(family, seed=5)
    initialise(again, {"file": str(path), "base": str(moved)})
    assert torch.equal(outputs(again), outputs(model))
    assert again.backbone.base == {**model.backbone.base, "name": str(moved)}


def test_a_model_of_this_project_as_base(family, tmp_path):
    base = save(make_mllm(family), tmp_path / "model")
    model = prepared(family)
    initialise(model, base)
    assert torch.equal(outputs(model), outputs(make_mllm(family)))
    learn(model)
    lora = save(model, tmp_path / "lora")
    assert torch.equal(outputs(load(lora)), outputs(model))
    again = prepared(family, seed=3)
    initialise(again, lora)  # the same adapters go on, on the same base
    assert torch.equal(outputs(again), outputs(model)) and again.backbone.base == model.backbone.base
    with pytest.raises(CheckpointError, match="merge it first: ufo convert --merge"):
        initialise(prepared(family, r=3), lora)
    with pytest.raises(CheckpointError, match="merge it first"):
        initialise(plain(family), lora)


def test_embeddings_that_do_not_train_but_grew_are_saved(family, start):
    model = prepared(family, train_embeddings=False)
    initialise(model, start[0])
    learn(model)
    path = save(model, start[0].parent / "lora")
    names = {
        n.removeprefix("backbone.net.") for n in load_file(path / "model.safetensors") if ".lora_" not in n
    }
    assert names == {EMBED, HEAD}
    assert torch.equal(outputs(load(path)), outputs(model))


def test_a_lora_over_weights_that_no_file_holds_is_saved_whole(family, tmp_path):
    model = learn(prepared(family))
    path = save(model, tmp_path / "lora")
    assert load_file(path / "model.safetensors").keys() == model.state_dict().keys()
    assert torch.equal(outputs(load(path)), outputs(model))


# ---------------------------------------------------------------- Lightning


def fit(model: UFO, folder, steps: int, resume=None):
    module = UFOModule(model, lambda groups: torch.optim.AdamW(groups, lr=0.01))
    module._optimizer.keywords = {"lr": 0.01}
    loader = DataLoader([training_batch()] * 8, batch_size=None)
    trainer = quiet_trainer(
        max_steps=steps,
        default_root_dir=folder,
    )
    trainer.fit(module, loader, ckpt_path=resume, weights_only=True if resume else None)
    trainer.save_checkpoint(folder / f"{steps}.ckpt")
    return folder / f"{steps}.ckpt"


@pytest.mark.slow
def test_a_checkpoint_of_a_lora_run_holds_what_trains_and_goes_on(tmp_path):
    base = save(make_mllm(), tmp_path / "base")
    model = prepared()
    initialise(model, base)
    straight = fit(model, tmp_path, 4)
    expected = outputs(model.eval())

    first = prepared()
    initialise(first, base)
    path = fit(first, tmp_path, 2)
    content = torch.load(path, weights_only=True)
    names = {f"model.backbone.{k}" for k, p in first.backbone.named_parameters() if p.requires_grad}
    assert content["state_dict"].keys() == names
    assert len(content["optimizer_states"][0]["state"]) == len(names)

    second = prepared(seed=5)
    initialise(second, base)
    check_base(second, path)
    resumed = fit(second, tmp_path, 4, resume=path)
    torch.testing.assert_close(outputs(second.eval()), expected, rtol=1e-4, atol=1e-5)
    for checkpoint in (straight, resumed):
        torch.testing.assert_close(outputs(load(checkpoint)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_run_on_another_base_or_with_other_adapters_does_not_go_on(tmp_path):
    bases = [save(make_mllm(seed=s), tmp_path / f"base{s}") for s in (0, 1)]
    model = prepared()
    initialise(model, bases[0])
    path = fit(model, tmp_path, 1)
    other = prepared()
    initialise(other, bases[1])
    with pytest.raises(CheckpointError, match=r"is for the base .*base0.* set init="):
        check_base(other, path)
    other = prepared(dora=True)
    initialise(other, bases[0])
    with pytest.raises(CheckpointError, match="was trained with lora="):
        check_same_model(other, read(path)[0], path)


@pytest.mark.slow
def test_frozen_parts_without_adapters(tmp_path):
    """Full fine-tuning with a frozen tower: checkpoints are small, the model's folder is complete."""
    base = save(make_mllm(), tmp_path / "base")
    model = plain(train_vision=False)
    initialise(model, base)
    learn(model)
    checkpoint = fit(model, tmp_path, 1)
    kept = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert not any("vision_tower" in k for k in kept) and any("projector" in k for k in kept)
    loaded = load(checkpoint)
    assert torch.equal(outputs(loaded), outputs(model.eval()))
    path = save(loaded, tmp_path / "model")
    (tmp_path / "base").rename(tmp_path / "gone")
    assert torch.equal(outputs(load(path)), outputs(model))
