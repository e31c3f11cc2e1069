"""Recognising published checkpoints by their recorded key lists."""

from __future__ import annotations

import hashlib

import torch
from vit_recordings import load_json

from ufo.backbones.ufo_vit import PIXEL_MEAN, PIXEL_STD, UFOViT
from ufo.checkpoints.vit_names import architecture, convert_keys, key_table


def checkpoint(name: str) -> dict[str, torch.Tensor]:
    """A state dict of recorded names and shapes that takes no memory."""
    return {
        entry["name"]: torch.empty(entry["shape"], dtype=getattr(torch, entry["dtype"]), device="meta")
        for entry in load_json(name)
    }


def test_every_published_size_fits_the_network_it_builds(recordings):
    sizes = [name for name in recordings.names("keys_*.json") if "single" not in name]
    assert sizes
    for name in sizes:
        state = checkpoint(name)
        with torch.device("meta"):
            backbone = UFOViT(**architecture(state))
        needed = {k: v.shape for k, v in backbone.state_dict().items()}
        assert needed == {k: v.shape for k, v in convert_keys(state).items()}
        table = key_table(len(backbone.layers))
        learned = {table[e["name"]] for e in load_json(name) if e["requires_grad"]}
        assert learned == {k for k, p in backbone.named_parameters() if p.requires_grad}


def test_single_task_models_differ_as_recorded(recordings):
    for changes in load_json("keys_single_task_models").values():
        state = checkpoint("keys_base")
        assert len(state) == changes["n_keys"] and not changes["missing_vs_multi_base"]
        for key, (shape, before) in changes["diff_vs_multi_base"].items():
            assert list(state[key].shape) == before
            state[key] = state[key].new_empty(shape)
        found = architecture(state)
        with torch.device("meta"):
            backbone = UFOViT(**found)
        assert sum(p.numel() for p in backbone.parameters()) == changes["n_params"]


def test_the_small_model_is_recognised(recordings):
    config = recordings.config["backbone"]
    arch, globally = config["arch"], config["arch"]["global_attn_indexes"]
    one_window = config["img_size"] == config["patch_size"] * config["window_size"]
    found = architecture(recordings.state_dict, globally if one_window else None)
    assert found["global_layers"] == globally
    assert found["depth"] + found["new_layers"] == arch["num_layers"] + len(config["new_more_layers"])
    if arch["num_layers"] - 1 in globally:  # as in all published models; tensors tell no more
        assert found["depth"] == arch["num_layers"]
    assert found["width"] == arch["embed_dims"]
    assert found["heads"] == arch["num_heads"]
    assert round(found["width"] * found["mlp_ratio"]) == arch["feedforward_channels"]
    assert found["image_size"] == config["img_size"]
    assert found["patch_size"] == config["patch_size"]
    assert found["window_size"] == config["window_size"]
    assert found["vocab_size"] == config["text_cfg"]["vocab_size"]
    preprocessor = recordings.config["data_preprocessor"]
    assert tuple(preprocessor["mean"]) == PIXEL_MEAN
    assert tuple(preprocessor["std"]) == PIXEL_STD


def test_weights_are_the_recorded_ones(recordings):
    digest = hashlib.sha256()
    for entry in load_json("keys_small"):
        digest.update(entry["name"].encode())
        digest.update(recordings.state_dict[entry["name"]].numpy().tobytes())
    assert digest.hexdigest() == load_json("small_model_cfg")["sha256"]
