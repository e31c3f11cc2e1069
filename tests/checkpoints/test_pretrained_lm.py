"""Language models start from pretrained weights, and keep what they learned apart from their base."""

from __future__ import annotations

import json

import pytest
import torch
from lightning.pytorch import Trainer
from released_mllm_files import WRITERS, released_model
from safetensors.torch import load_file, save_file
from tiny_mllm import FAMILIES, LORA, learn, make_mllm, outputs, training_batch
from torch.utils.data import DataLoader
from transformers import AutoModelForImageTextToText

import ufo
from ufo.backbones.lora import frozen
from ufo.backbones.vocabulary import fit_vocabulary
from ufo.checkpoints import model_folder
from ufo.checkpoints.errors import CheckpointError
from ufo.checkpoints.load import (
    check_base,
    check_same_model,
    initialise,
    load,
    prepare_training,
    read,
    save,
)
from ufo.model import UFO
from ufo.modules.base import UFOModule

EMBED, HEAD = "model.language_model.embed_tokens.weight", "lm_head.weight"
NORM = "model.language_model.norm.weight"


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    return request.param


def prepared(family: str = "internvl", seed: int = 1, **changes) -> UFO:
    """A model as training builds it, with adapters."""
    model = make_mllm(family, seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        prepare_training(model, {**LORA, **changes})
    return model


def plain(family: str = "internvl", seed: int = 1, **lora) -> UFO:
    model = make_mllm(family, seed)
    prepare_training(model, lora)
    return model


@pytest.fixture
def start(family, tmp_path):
    """A pretrained model of transformers in a folder: it knows none of UFO's tokens."""
    model = make_mllm(family)
    net, known = model.backbone.net, len(model.tokenizer) - model.tokenizer.appended
    net.resize_token_embeddings(known, mean_resizing=False)
    net.save_pretrained(tmp_path / "base")
    return tmp_path / "base", {k: v.clone() for k, v in net.state_dict().items()}, known


# ---------------------------------------------------------------- init=


@pytest.mark.parametrize("adapters", [True, False])
def test_a_transformers_folder_gives_all_but_the_new_rows(family, start, adapters):
    path, weights, known = start
    model = prepared(family) if adapters else plain(family)
    random = model.backbone.net.get_input_embeddings().weight.detach().clone()
    initialise(model, path)
    found = {k.replace(".base_layer.", "."): v for k, v in model.backbone.net.state_dict().items()}
    assert weights.keys() == {k for k in found if ".lora_" not in k}
    for name, value in weights.items():
        assert torch.equal(found[name][:known] if name in (EMBED, HEAD) else found[name], value), name
    new = len(found[HEAD]) - known
    assert new > 0 and torch.equal(found[EMBED][known:], random[known:])
    torch.testing.assert_close(found[HEAD][known:], weights[HEAD].mean(0).expand(new, -1))


def test_a_padded_embedding_is_cut(family, tmp_path):
    """Files reserve rows for tokens that nobody has: more rows than the tokenizer has tokens."""
    donor = make_mllm(family)
    known = len(donor.tokenizer) - donor.tokenizer.appended
    donor.backbone.net.resize_token_embeddings(len(donor.tokenizer) + 9, mean_resizing=False)
    donor.backbone.net.save_pretrained(tmp_path / "base")
    theirs = donor.backbone.net.state_dict()
    model = plain(family)
    initialise(model, tmp_path / "base")
    found = model.backbone.net.state_dict()
    assert torch.equal(found[EMBED], theirs[EMBED][: len(model.tokenizer)])
    new = model.tokenizer.appended
    torch.testing.assert_close(found[HEAD][known:], theirs[HEAD][:known].mean(0).expand(new, -1))


def test_the_full_form_starts_with_a_norm_of_ones(start, family):
    path, weights, _ = start
    model = plain(family, fresh_norm=True)
    initialise(model, path)
    found = model.backbone.net.state_dict()
    assert bool((found[NORM] == 1).all()) and not torch.equal(found[NORM], weights[NORM])
    other = plain(family)
    initialise(other, path)
    assert torch.equal(other.backbone.net.state_dict()[NORM], weights[NORM])


def test_weights_loaded_by_the_backbone_itself(family, start):
    """`backbone.network.pretrained`: the same start as `init=`."""
    path, weights, known = start
    model = make_mllm(family, config=None, pretrained=str(path))
    with torch.no_grad():  # the maker moves every weight
        for name, value in model.backbone.net.state_dict().items():
            value[:known].copy_(weights[name][:known]) if name in (EMBED, HEAD) else value.copy_(
                weights[name]
            )
    prepare_training(model, LORA, str(path))
    head = model.backbone.net.lm_head.weight
    torch.testing.assert_close(head[known:], weights[HEAD].mean(0).expand(len(head) - known, -1))
    assert model.backbone.base["name"] == str(path)


def test_internvl_in_the_layout_it_was_published_in(tmp_path):
    donor = make_mllm("internvl")
    known = len(donor.tokenizer) - donor.tokenizer.appended
    donor.backbone.net.resize_token_embeddings(known, mean_resizing=False)
    weights = donor.backbone.net.state_dict()
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "internvl_chat", "auto_map": {"AutoModel": "x"}})
    )
    save_file({k: v.clone() for k, v in WRITERS["internvl"](weights).items()}, tmp_path / "model.safetensors")
    model = plain("internvl")
    initialise(model, tmp_path)
    found = model.backbone.net.state_dict()
    assert all(torch.equal(found[k][: len(v)], v) for k, v in weights.items())


@pytest.fixture
def pth(family, tmp_path):
    """A released LoRA in a `.pth`, and what it computes."""
    released, _ = released_model(family, lora=True)
    path = tmp_path / "released.pth"
    torch.save({"meta": {}, "state_dict": released}, path)
    model = plain(family)
    initialise(model, path)
    return path, outputs(model)


def test_a_released_lora_is_merged_or_goes_on(family, pth):
    path, expected = pth
    assert (expected - outputs(make_mllm(family))).abs().max() > 0.1
    model = prepared(family)
    initialise(model, path)
    torch.testing.assert_close(outputs(model), expected, rtol=1e-4, atol=1e-5)
    assert model.backbone.base["name"] == str(path)
    learned = outputs(learn(model))
    save(model, path.parent / "more")
    assert torch.equal(outputs(load(path.parent / "more")), learned)


def test_a_released_lora_of_another_kind_must_be_merged_first(family, pth):
    with pytest.raises(CheckpointError, match=r"LoRA of another kind .* ufo convert"):
        initialise(prepared(family, r=3), pth[0])
    with pytest.raises(CheckpointError, match="LoRA of another kind"):
        initialise(prepared(family, alpha=4), pth[0])


@pytest.mark.parametrize("which", ["family", "heads", "width", "vocabulary", "half", "offline", "vit"])
def test_what_cannot_start_a_model(which, tmp_path, make_model):
    donor = make_mllm("llava" if which == "family" else "internvl")
    net, known = donor.backbone.net, len(donor.tokenizer) - donor.tokenizer.appended
    net.resize_token_embeddings(known - 5 if which == "vocabulary" else known, mean_resizing=False)
    path = tmp_path / "base"
    net.save_pretrained(path)
    config = json.loads((path / "config.json").read_text())
    if which == "heads":
        config["text_config"]["num_attention_heads"] = 2
        (path / "config.json").write_text(json.dumps(config))
    if which == "half":
        (path / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes()[:5000])
    model = plain()
    if which == "width":
        config = {**make_mllm().backbone.config["config"]}
        config["text_config"] = {**config["text_config"], "intermediate_size": 64}
        model = make_mllm(config=config)
    if which == "vit":
        save(make_model(), path := tmp_path / "vit")
    said = {
        "family": "is a llava, not the internvl",
        "heads": "num_attention_heads=2 there, 4 here",
        "width": "of another",
        "vocabulary": "tokens and the tokenizer",
        "half": "cannot be read as a InternVLForConditionalGeneration",
        "offline": "cannot be had from the hub",
        "vit": "holds a UFOViT, not the InternVL",
    }
    with pytest.raises(CheckpointError, match=said[which]) as error:
        initialise(model, "nobody/nothing" if which == "offline" else path)
    assert "\n" not in str(error.value)


def test_rows_for_new_tokens():
    old, fresh = torch.arange(12.0).view(4, 3), torch.full((6, 3), -1.0)
    mean = old[:4].mean(0)
    head = fit_vocabulary(old, 6, 4)
    assert torch.equal(head, torch.stack([*old, mean, mean]))
    # a file padded beyond its tokens: what it reserved is an initial value of the input, not of the head
    assert torch.equal(fit_vocabulary(old, 3, 2), torch.stack([*old[:2], old[:2].mean(0)]))
    assert torch.equal(fit_vocabulary(old, 3, 2, fresh[:3]), old[:3])
    assert torch.equal(fit_vocabulary(old, 6, 4, fresh), torch.cat([old, fresh[:2]]))
    assert torch.equal(fit_vocabulary(old, 2, 2), old[:2])


# ---------------------------------------------------------------- a LoRA and its base


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
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(module, loader, ckpt_path=resume, weights_only=True if resume else None)
    trainer.save_checkpoint(folder / f"{steps}.ckpt")
    return folder / f"{steps}.ckpt"


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


# ---------------------------------------------------------------- folders


def test_a_folder_is_one_of_transformers_too(family, tmp_path):
    model = make_mllm(family)
    path = save(model, tmp_path / "model")
    net = AutoModelForImageTextToText.from_pretrained(path)
    ours = model.backbone.net.state_dict()
    assert type(net) is type(model.backbone.net)
    assert all(torch.equal(v, ours[k]) for k, v in net.state_dict().items())
    assert torch.equal(outputs(load(path)), outputs(model))
    assert load(path).describe() == model.describe()


def test_large_models_are_written_in_shards(family, tmp_path, monkeypatch):
    monkeypatch.setattr(model_folder, "SHARD", "20KB")
    model = make_mllm(family)
    path = save(model, tmp_path / "model")
    shards = sorted(p.name for p in path.glob("*.safetensors"))
    assert len(shards) > 3 and all(p.stat().st_size < 40_000 for p in path.glob("*.safetensors"))
    assert torch.equal(outputs(load(path)), outputs(model))
    AutoModelForImageTextToText.from_pretrained(path)
    (path / shards[1]).unlink()
    with pytest.raises(CheckpointError, match=f"it lacks {shards[1]}"):
        load(path)


def test_a_shard_outside_the_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(model_folder, "SHARD", "20KB")
    path = save(make_mllm(), tmp_path / "model")
    index = json.loads((path / "model.safetensors.index.json").read_text())
    index["weight_map"] = dict.fromkeys(index["weight_map"], "../secret.safetensors")
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="a shard outside the folder"):
        load(path)


def test_tied_embeddings_are_saved_once_and_stay_tied(tmp_path):
    config = {**make_mllm().backbone.config["config"], "tie_word_embeddings": True}
    config["text_config"] = {**config["text_config"], "tie_word_embeddings": True}
    model = make_mllm(config=config)
    net = model.backbone.net
    assert net.lm_head.weight is net.get_input_embeddings().weight
    path = save(model, tmp_path / "model")
    assert sum(k.endswith((EMBED, HEAD)) for k in load_file(path / "model.safetensors")) == 1
    loaded = load(path)
    assert loaded.backbone.net.lm_head.weight is loaded.backbone.net.get_input_embeddings().weight
    assert torch.equal(outputs(loaded), outputs(model))


def test_the_type_of_weights_is_kept(tmp_path):
    model = make_mllm(dtype="bfloat16").bfloat16()
    path = save(model, tmp_path / "model")
    assert {v.dtype for v in load(path).backbone.net.state_dict().values()} == {torch.bfloat16}


def test_a_tokenizer_without_the_special_tokens_is_refused(tmp_path):
    path = save(make_mllm(), tmp_path / "model")
    file = path / "tokenizer.json"
    file.write_text(file.read_text().replace("<img>", "<pic>"))
    with pytest.raises(CheckpointError, match="the tokenizer has no token <img>"):
        load(path)


def test_a_foreign_transformers_folder_is_no_checkpoint(start):
    with pytest.raises(CheckpointError, match=r"a model of transformers, not of this project|lacks"):
        read(start[0])
