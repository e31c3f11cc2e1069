"""The architecture of a released UFO-InternVL or UFO-LLaVA, as a config of transformers.

Shapes of tensors tell most of it; what they do not tell is that of the released models, or is given
(docs/published_system.md#mllm-files).
Shapes: `K` key/value heads, `d` width of a head.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ufo.checkpoints.mllm_names import CLIP_PATCHES, CLIP_POSITIONS, LANGUAGE_MODEL, layers

HEAD_WIDTH = {"text_config": 128, "vision_config": 64}  # of InternLM2, LLaMA; InternViT, CLIP

# what the tensors do not tell of the released models
_FIXED: dict[str, dict[str, Any]] = {
    "internvl": {
        "text_config": {
            "model_type": "llama",
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e6},
        },
        "vision_config": {"attention_bias": True},
        "image_token_id": 92546,
        "downsample_ratio": 0.5,
        "vision_feature_layer": -1,
        "tie_word_embeddings": False,
    },
    "llava": {
        "text_config": {
            "model_type": "llama",
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        },
        "vision_config": {"model_type": "clip_vision_model"},
        "image_token_index": 32000,
        # UFO reads the last layer, LLaVA itself the last but one
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": False,
    },
}


def released_config(state: Mapping[str, Tensor], family: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """A native config: what tensors tell, then `given`, then what the released models have.

    Raises ValueError where `given` contradicts the tensors, or a width does not divide into heads.
    """
    known = _measured(state, family)
    config = _joined(_FIXED[family], given)
    for part, values in known.items():
        if isinstance(values, dict):
            wrong = {k: v for k, v in values.items() if given.get(part, {}).get(k, v) not in (v, [v, v])}
            if wrong:
                key, value = next(iter(wrong.items()))
                raise ValueError(f"the weights have {key}={value}, the config says {given[part][key]}")
    config = _joined(config, known)
    for part, width in HEAD_WIDTH.items():
        config[part].setdefault("num_attention_heads", config[part]["hidden_size"] // width)
    text = config["text_config"]
    heads, width, rows = text["num_attention_heads"], text["hidden_size"], _kv_rows(state, family, text)
    if not heads or width % heads or rows % (width // heads):
        raise ValueError(
            f"a width of {width} with {rows} key rows does not divide into {heads} heads; give "
            "text_config.num_attention_heads"
        )
    text["num_key_value_heads"] = rows // (width // heads)
    return config


def _measured(state: Mapping[str, Tensor], family: str) -> dict[str, Any]:
    if family == "internvl":
        tower, encoder, patch = "vision_model.", "encoder.layers.", "embeddings.patch_embedding.weight"
        positions, gate = state[tower + "embeddings.position_embedding"].shape[1], "feed_forward.w1.weight"
        embedding = state[LANGUAGE_MODEL + "model.tok_embeddings.weight"]
    else:
        tower, encoder, patch = "vision_tower.vision_model.", "encoder.layers.", CLIP_PATCHES
        positions, gate = len(state[tower + CLIP_POSITIONS]), "mlp.gate_proj.weight"
        embedding = state[LANGUAGE_MODEL + "model.embed_tokens.weight"]
    kernel = state[tower + patch]
    side = round((positions - 1) ** 0.5) * kernel.shape[-1]
    square = (lambda n: [n, n]) if family == "internvl" else (lambda n: n)
    if state[f"{LANGUAGE_MODEL}model.layers.0.{gate}"].ndim != 2 or embedding.ndim != 2 or kernel.ndim != 4:
        raise ValueError("the embedding, the MLP or the patches have no shape that fits a UFO model")
    return {
        "text_config": {
            "vocab_size": embedding.shape[0],
            "hidden_size": embedding.shape[1],
            "intermediate_size": len(state[f"{LANGUAGE_MODEL}model.layers.0.{gate}"]),
            "num_hidden_layers": len(layers(state, LANGUAGE_MODEL + "model.layers.")),
        },
        "vision_config": {
            "hidden_size": kernel.shape[0],
            "intermediate_size": len(state[f"{tower}{encoder}0.mlp.fc1.weight"]),
            "num_hidden_layers": len(layers(state, tower + encoder)),
            "image_size": square(side),
            "patch_size": square(kernel.shape[-1]),
        },
    }


def _kv_rows(state: Mapping[str, Tensor], family: str, text: Mapping[str, Any]) -> int:
    """Rows of the key projection: `K * d`."""
    if family == "llava":
        return len(state[LANGUAGE_MODEL + "model.layers.0.self_attn.k_proj.weight"])
    return (len(state[LANGUAGE_MODEL + "model.layers.0.attention.wqkv.weight"]) - text["hidden_size"]) // 2


def _joined(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two nested configs; values of `above` win."""
    both = dict(below)
    for key, value in above.items():
        nested = isinstance(value, Mapping) and isinstance(both.get(key), Mapping) and key.endswith("_config")
        both[key] = _joined(both[key], value) if nested else value
    return both
