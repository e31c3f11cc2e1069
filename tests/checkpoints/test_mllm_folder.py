"""The folder of a language model: whole, in shards, for transformers too."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from tiny_mllm import make_mllm, outputs
from transformers import AutoModelForImageTextToText

from ufo.checkpoints import model_folder
from ufo.checkpoints.errors import CheckpointError
from ufo.checkpoints.load import load, read, save

EMBED, HEAD = "model.language_model.embed_tokens.weight", "lm_head.weight"
NORM = "model.language_model.norm.weight"


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
