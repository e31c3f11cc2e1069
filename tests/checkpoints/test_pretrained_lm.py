"""Language models start from pretrained weights, and keep what they learned apart from their base."""

from __future__ import annotations

import json

import pytest
import torch
from released_files import WRITERS, released_model
from safetensors.torch import save_file
from tiny_mllm import LORA, learn, make_mllm, outputs, plain, prepared

from ufo.backbones.vocabulary import fit_vocabulary
from ufo.checkpoints.errors import CheckpointError
from ufo.checkpoints.load import check_start, initialise, load, prepare_training, save

pytestmark = pytest.mark.heavy

EMBED, HEAD = "model.language_model.embed_tokens.weight", "lm_head.weight"
NORM = "model.language_model.norm.weight"


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


def test_a_start_that_is_not_there_is_told_before_anything_is_read(tmp_path, monkeypatch, make_model):
    def unreachable(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    gone, model = str(tmp_path / "gone"), make_mllm()
    with pytest.raises(CheckpointError, match=r"no checkpoint at init=.*gone.*init=null"):
        check_start(model, gone)
    with pytest.raises(CheckpointError, match=r"no checkpoint at init=.*gone"):
        check_start(model, {"file": str(tmp_path), "base": gone})
    with pytest.raises(CheckpointError, match="cannot be had from the hub"):
        check_start(model, "nobody/nothing")
    with pytest.raises(CheckpointError, match="init: 'nobody/nothing' is no path here"):
        check_start(make_model(), "nobody/nothing")
    check_start(model, str(tmp_path))


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
