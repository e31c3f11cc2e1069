"""Released names and shapes -> ours, on an invented checkpoint."""

from __future__ import annotations

import pytest
import torch

from ufo.backbones.ufo_vit import UFOViT
from ufo.checkpoints.vit_names import architecture, convert_keys, key_table


@pytest.fixture
def released(make_backbone) -> dict[str, torch.Tensor]:
    """The tiny network as the released code would have saved it."""
    backbone = make_backbone()
    ours = backbone.state_dict()
    table = key_table(len(backbone.layers))
    state = {theirs: ours[name] for theirs, name in table.items() if name}
    return state | {"backbone.embed.position_ids": torch.arange(64)[None]}


def test_every_tensor_arrives_unchanged(released, make_backbone):
    converted, ours = convert_keys(released), make_backbone().state_dict()
    assert converted.keys() == ours.keys()
    assert all(torch.equal(converted[name], ours[name]) for name in ours)


def test_the_architecture_is_recognised(released, make_backbone):
    found, built = architecture(released), make_backbone().config
    untraceable = {"text_dropout", "drop_path_rate", "gradient_checkpointing", "mean_layers"}
    assert found.keys() == built.keys() - untraceable
    for name in found.keys() - {"query_update_at_global"}:
        assert found[name] == built[name], name
    UFOViT(**found).load_state_dict(convert_keys(released))


@pytest.mark.parametrize("width, mlp_ratio", [(14, 61 / 14), (22, 15 / 22)])
def test_any_mlp_width_is_rebuilt_exactly(make_backbone, width, mlp_ratio):
    """These ratios times the width are a little less than the integer in floating point."""
    backbone = make_backbone(width=width, mlp_ratio=mlp_ratio)
    ours = backbone.state_dict()
    state = {k: ours[name] for k, name in key_table(len(backbone.layers)).items() if name}
    assert len(ours["layers.0.fc1.weight"]) == round(width * mlp_ratio)
    UFOViT(**architecture(state)).load_state_dict(convert_keys(state))


def test_unmapped_and_missing_keys_are_listed(released):
    released["backbone.neck.weight"] = torch.zeros(1)
    del released["backbone.layers.1.ln1.bias"], released["backbone.pos_embed"]
    with pytest.raises(ValueError) as error:
        convert_keys(released)
    message = str(error.value)
    assert "1 unmapped keys (backbone.neck.weight)" in message
    assert "2 missing keys" in message
    assert "backbone.layers.1.ln1.bias" in message and "backbone.pos_embed" in message


def test_a_missing_layer_is_noticed(released):
    gap = {k: v for k, v in released.items() if not k.startswith("backbone.layers.2.")}
    with pytest.raises(ValueError, match=r"14 missing keys \(backbone.layers.2"):
        convert_keys(gap)


@pytest.mark.parametrize(
    "name", ["backbone.layers.99999999.ln1.bias", "backbone.layers.-1.ln1.bias", "vision.weight"]
)
def test_names_of_another_family_are_refused_quickly(name):
    with pytest.raises(ValueError, match="not a released UFO-ViT"):
        architecture({name: torch.zeros(1)})


def test_a_constant_that_newer_libraries_do_not_save_may_be_absent(released):
    del released["backbone.embed.position_ids"]
    assert convert_keys(released)


def test_one_window_per_image_needs_to_be_told_the_global_layers(released):
    for axis in "hw":  # as if the image were a single window
        key = f"backbone.layers.1.attn.rel_pos_{axis}"
        released[key] = released[key][:5]
    released["backbone.pos_embed"] = released["backbone.pos_embed"][:, :3, :3]
    with pytest.raises(ValueError, match="global_layers"):
        architecture(released)
    found = architecture(released, global_layers=[1])
    assert (found["depth"], found["new_layers"], found["image_size"]) == (2, 2, 12)


def test_shapes_that_fit_nothing_are_refused(released):
    wide = dict(released)
    wide["backbone.pos_embed"] = torch.zeros(1, 6, 9, 16)
    with pytest.raises(ValueError, match="expected a square"):
        architecture(wide)
    for axis in "hw":
        released[f"backbone.layers.2.attn.rel_pos_{axis}"] = torch.zeros(7, 8)
    with pytest.raises(ValueError, match=r"layers \[2\] have relative positions for neither"):
        architecture(released)
    released["backbone.layers.2.attn.rel_pos_h"] = torch.zeros(5, 8)
    with pytest.raises(ValueError, match="layer 2 has relative positions of two sizes"):
        architecture(released)
