"""Released MLLM weights find their native place: recordings, and an own writer of the layout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from released_files import released_model
from safetensors.torch import load_file
from tiny_mllm import FAMILIES, LORA, make_mllm, outputs
from torch import Tensor
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from ufo.backbones.lora import apply_lora
from ufo.checkpoints.mllm_names import is_released_mllm
from ufo.checkpoints.mllm_weights import merge, read_released_mllm

GOLDEN = Path(os.environ.get("UFO_GOLDEN_DIR", Path(__file__).parents[3] / "shared" / "golden")) / "mllm"
NATIVE = {
    "internvl": (InternVLConfig, InternVLForConditionalGeneration),
    "llava": (LlavaConfig, LlavaForConditionalGeneration),
}
HEADS = {"text_config": {"num_attention_heads": 4}, "vision_config": {"num_attention_heads": 2}}


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    return request.param


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


# ---------------------------------------------------------------- names


def test_full_weights_find_their_place(family):
    released, native = released_model(family)
    weights, lora, described = read_released_mllm(released, HEADS)
    assert same(weights, native) and not lora
    assert described["family"] == family and described["lora"] is None


def test_the_architecture_is_read_from_the_tensors(family):
    released, native = released_model(family)
    ours = make_mllm(family).backbone.net.config.to_dict()
    config = read_released_mllm(released, HEADS)[2]["config"]
    for part in ("text_config", "vision_config"):
        for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
            assert config[part][key] == ours[part][key], (part, key)
    assert config["text_config"]["num_key_value_heads"] == {"internvl": 2, "llava": 4}[family]
    assert config["text_config"]["vocab_size"] == ours["text_config"]["vocab_size"]
    assert config["vision_config"]["image_size"] == ours["vision_config"]["image_size"]
    assert config["tie_word_embeddings"] is False and config["vision_feature_layer"] == -1
    kind, network = NATIVE[family]
    assert network(kind(**config)).state_dict().keys() == native.keys()


@pytest.mark.parametrize("wrap", ["module", "nested", "bare", "new peft", "saved modules"])
def test_wrappings_and_names_of_other_versions(family, wrap):
    released, native = released_model(family, lora=True)
    expected = read_released_mllm(released, HEADS)
    changed = dict(released)
    if wrap == "module":
        changed = {f"module.{k}": v for k, v in released.items()}
    elif wrap == "nested":
        changed = {"meta": {}, "state_dict": released, "message_hub": {}}
    elif wrap == "bare":
        changed = {k.removeprefix("backbone."): v for k, v in released.items()}
    elif wrap == "new peft":
        stems = {k.split(".lora_")[0] for k in released if ".lora_" in k}
        changed = {
            f"{k.removesuffix('.weight')}.base_layer.weight" if k.removesuffix(".weight") in stems else k: v
            for k, v in released.items()
        }
        changed = {k.replace(".default.", "."): v for k, v in changed.items()}
    else:
        head = next(k for k in released if k.endswith(("output.weight", "lm_head.weight")))
        stem = head.removesuffix(".weight")
        changed[f"{stem}.modules_to_save.default.weight"] = changed.pop(head)
        changed[f"{stem}.original_module.weight"] = torch.zeros(3)
    found = read_released_mllm(changed, HEADS)
    assert same(found[0], expected[0]) and same(found[1], expected[1]) and same(found[0], native)
    assert found[2] == expected[2]


def test_a_lora_merges_on_the_fused_weight(family):
    released, _ = released_model(family, lora=True)
    weights, lora, described = read_released_mllm(released, HEADS)
    assert described["lora"]["rank"] == 4 and len(described["lora"]["targets"]) == 7
    fused = {k: v for k, v in released.items() if ".lora_" not in k}
    for name in fused:
        factor = name.removesuffix(".weight") + ".lora_{}.default.weight"
        if factor.format("A") in released:
            fused[name] = fused[name] + 2 * released[factor.format("B")] @ released[factor.format("A")]
    expected = read_released_mllm(fused, HEADS)[0]
    merged = merge(weights, lora)
    assert merged.keys() == expected.keys()
    assert any(not torch.equal(merged[k], weights[k]) for k in merged)
    for name, value in merged.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6)


def unmerged(model, weights: dict[str, Tensor], lora: dict[str, Tensor]) -> None:
    """Put weights and factors into a model with adapters."""
    below = {k.replace(".base_layer.", "."): k for k in model.backbone.net.state_dict()}
    named = {below[k]: v for k, v in weights.items()}
    named |= {k.replace(".weight", ".default.weight"): v for k, v in lora.items()}
    model.backbone.net.load_state_dict(named)


def test_a_lora_kept_apart_is_the_same_function(family):
    released, _ = released_model(family, lora=True)
    weights, lora, _ = read_released_mllm(released, HEADS)
    merged, apart = make_mllm(family, seed=1), make_mllm(family, seed=2)
    merged.backbone.net.load_state_dict(merge(weights, lora))
    apply_lora(apart.backbone, LORA)
    unmerged(apart, weights, lora)
    torch.testing.assert_close(outputs(apart), outputs(merged), rtol=1e-4, atol=1e-5)
    assert (outputs(apart) - outputs(make_mllm(family))).abs().max() > 0.1


# ---------------------------------------------------------------- what is refused


def test_keys_without_a_place_and_missing_ones_are_listed(family):
    released, _ = released_model(family, lora=True)
    gone = next(k for k in released if "layers.1" in k and ".lora_" not in k)
    released["backbone.box_head.weight"] = released.pop(gone)
    with pytest.raises(ValueError, match=r"1 unmapped keys \(box_head.weight\); 1 missing keys") as error:
        read_released_mllm(released, HEADS)
    inner = gone.removeprefix("backbone.").replace("base_model.model.", "")
    assert inner in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("broken", ["orphan", "half", "shape", "rank"])
def test_factors_that_do_not_fit(broken):
    released, _ = released_model("internvl", lora=True)
    up = next(k for k in released if "wqkv.lora_B" in k)
    if broken == "orphan":
        released[up.replace("wqkv", "nothing")] = released.pop(up)
    elif broken == "half":
        del released[up]
    elif broken == "shape":
        released[up] = released[up][:, :2]
    else:
        released[up] = released[up][:, :2]
        down = up.replace("lora_B", "lora_A")
        released[down] = released[down][:2]
    said = {"orphan": "1 unmapped", "half": "1 missing", "shape": "do not fit", "rank": "several ranks"}
    with pytest.raises(ValueError, match=said[broken]):
        read_released_mllm(released, HEADS)


def test_what_tensors_tell_wins_over_nothing_and_contradicts_loudly():
    released, _ = released_model("internvl")
    with pytest.raises(ValueError, match=r"give text_config\.num_attention_heads"):
        read_released_mllm(released)
    with pytest.raises(ValueError, match="weights have hidden_size=32, the config says 64"):
        read_released_mllm(released, {"text_config": {"num_attention_heads": 4, "hidden_size": 64}})
    with pytest.raises(ValueError, match="does not divide into 3 heads"):
        read_released_mllm(released, {"text_config": {"num_attention_heads": 3}})


def test_other_weights_are_refused():
    assert not is_released_mllm({"backbone.pos_embed": 0, "backbone.layers.0.ln1.weight": 0})
    assert is_released_mllm(released_model("llava")[0])
    with pytest.raises(ValueError, match="neither a UFO-InternVL nor a UFO-LLaVA"):
        read_released_mllm({"backbone.language_model.model.norm.weight": torch.zeros(2)})
    # a number in a file must not make us build a huge table
    with pytest.raises(ValueError, match="missing keys"):
        read_released_mllm({f"mlp1.{10**9}.x": torch.zeros(1), "language_model.model.layers.999999999.x": 0})


# ---------------------------------------------------------------- recordings


def recorded(name: str, image_token: dict[str, int]):
    file = GOLDEN / f"{name}.safetensors"
    if not file.is_file():
        pytest.skip(f"no recording at {file}; set UFO_GOLDEN_DIR")
    return read_released_mllm(load_file(file), {**HEADS, **image_token})


@pytest.mark.parametrize(
    "name, image_token, factors",
    [
        ("internvl_full_tiny", {"image_token_id": 908}, 0),
        ("internvl_lora_tiny", {"image_token_id": 908}, 3 * 7 * 2),
        ("llava_lora_tiny", {"image_token_index": 900}, 3 * 7 * 2),
    ],
)
def test_recorded_weights_load_strictly(name, image_token, factors):
    weights, lora, described = recorded(name, image_token)
    config, network = NATIVE[described["family"]]
    net = network(config(**described["config"]))
    net.load_state_dict(merge(weights, lora))  # strict
    assert len(lora) == factors
    assert net.config.image_token_id == next(iter(image_token.values()))
    text = net.config.text_config
    assert (text.hidden_size, text.num_hidden_layers, text.rms_norm_eps) == (64, 3, 1e-5)


def test_the_recorded_lora_merged_is_the_recorded_full_model():
    weights, lora, _ = recorded("internvl_lora_tiny", {"image_token_id": 908})
    full = recorded("internvl_full_tiny", {"image_token_id": 908})[0]
    merged = merge(weights, lora)
    assert merged.keys() == full.keys()
    assert any(not torch.equal(weights[k], full[k]) for k in full)
    for name, value in full.items():
        torch.testing.assert_close(merged[name], value, rtol=0, atol=1e-6)
