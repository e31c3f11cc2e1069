"""Names and shapes of the published UFO-InternVL and UFO-LLaVA weights (docs/published_system.md#mllm-files).

`read_released_mllm(state_dict)` gives the native weights, the LoRA factors and a description, `merge` adds
the factors to the weights. The layout that InternVL2.5 was published in (no `backbone.`) is read as well.
Shapes: `K` key/value heads, `g` query heads for each of them, `d` width of a head, `C` width, `r` rank.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from torch import Tensor

from ufo.checkpoints.vit_names import _listing

Family = Literal["internvl", "llava"]
SCALE = 2.0  # alpha / rank of every published LoRA; the factors alone do not tell
HEAD_WIDTH = {"text_config": 128, "vision_config": 64}  # of InternLM2, LLaMA; InternViT, CLIP

# official name -> native name; a tuple: the parts of a fused tensor, one below the other
_Table = dict[str, "str | tuple[str, ...]"]

_INTERNVIT: _Table = {
    "vision_model.embeddings.class_embedding": "embeddings.cls_token",
    "vision_model.embeddings.position_embedding": "embeddings.position_embeddings",
    "vision_model.embeddings.patch_embedding.weight": "embeddings.patch_embeddings.projection.weight",
    "vision_model.embeddings.patch_embedding.bias": "embeddings.patch_embeddings.projection.bias",
}
_INTERNVIT_LAYER: _Table = {
    "ls1": "lambda_1",
    "ls2": "lambda_2",
    **{f"attn.qkv.{k}": tuple(f"attention.{p}_proj.{k}" for p in "qkv") for k in ("weight", "bias")},
    **{
        f"{theirs}.{k}": f"{ours}.{k}"
        for theirs, ours in {
            "attn.proj": "attention.projection_layer",
            "norm1": "layernorm_before",
            "norm2": "layernorm_after",
            "mlp.fc1": "mlp.fc1",
            "mlp.fc2": "mlp.fc2",
        }.items()
        for k in ("weight", "bias")
    },
}
_CLIP = (
    "embeddings.class_embedding",
    "embeddings.patch_embedding.weight",
    "embeddings.position_embedding.weight",
    *(f"{norm}.{k}" for norm in ("pre_layrnorm", "post_layernorm") for k in ("weight", "bias")),
)
_CLIP_LAYER = tuple(
    f"{part}.{k}"
    for part in (
        *(f"self_attn.{p}_proj" for p in ("q", "k", "v", "out")),
        *("layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2"),
    )
    for k in ("weight", "bias")
)
_INTERNLM: _Table = {
    "model.tok_embeddings.weight": "model.language_model.embed_tokens.weight",
    "model.norm.weight": "model.language_model.norm.weight",
    "output.weight": "lm_head.weight",
}
_INTERNLM_LAYER: _Table = {
    "attention.wqkv.weight": tuple(f"self_attn.{p}_proj.weight" for p in "qkv"),
    "attention.wo.weight": "self_attn.o_proj.weight",
    "feed_forward.w1.weight": "mlp.gate_proj.weight",
    "feed_forward.w3.weight": "mlp.up_proj.weight",
    "feed_forward.w2.weight": "mlp.down_proj.weight",
    "attention_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
}
_LLAMA: _Table = {
    "model.embed_tokens.weight": "model.language_model.embed_tokens.weight",
    "model.norm.weight": "model.language_model.norm.weight",
    "lm_head.weight": "lm_head.weight",
}
_LLAMA_LAYER = (
    *(f"self_attn.{p}_proj.weight" for p in "qkvo"),
    *(f"mlp.{p}_proj.weight" for p in ("gate", "up", "down")),
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
)
_LM, _TOWER, _PROJECTOR = "language_model.", "model.vision_tower.", "model.multi_modal_projector."
_TEXT_LAYER = "model.language_model.layers."

# what the tensors do not tell of the published models
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


def read_released_mllm(
    state_dict: Mapping[str, Any], config: Mapping[str, Any] | None = None
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Native weights, LoRA factors and a description of a published UFO-InternVL or UFO-LLaVA.

    Args:
        state_dict: the file's content, or its `state_dict`; LoRA or full, peft's old or new names.
        config: a native config's values that win over those of the published models, for example
            `{"text_config": {"num_attention_heads": 4}, "image_token_id": 908}`; tensors must agree.

    Returns:
        weights by the names of `InternVLForConditionalGeneration` or `LlavaForConditionalGeneration`,
        without the LoRA; the factors, `<native module>.lora_A.weight [r, in]` and `.lora_B.weight [out, r]`,
        empty for a full model; `{"family", "config", "lora": None | {"rank", "scale", "targets"}}`.

    Raises:
        ValueError: keys without a place or missing (all listed), or shapes that do not fit.
    """
    state, factors = split_lora(strip_names(state_dict))
    family = family_of(state)
    tower = "vision_model." if family == "internvl" else "vision_tower.vision_model."
    table = name_table(
        family, len(_layers(state, f"{tower}encoder.layers.")), len(_layers(state, f"{_LM}model.layers."))
    )
    unmapped = [name for name in state if name not in table]
    missing = [name for name in table if name not in state]
    if unmapped or missing:
        raise ValueError(
            f"these are not the published names of a UFO-{_NAMES[family]}: "
            f"{_listing('unmapped', unmapped)}; {_listing('missing', missing)}"
        )
    full = _config(state, family, config or {})
    heads = (full["text_config"]["num_attention_heads"], full["text_config"]["num_key_value_heads"])
    native = {k: v for name, value in state.items() for k, v in _place(name, value, table[name], heads)}
    lora = _place_factors(factors, table, native, heads)
    targets = sorted({name.split(".lora_")[0].rpartition(".")[2] for name in lora})
    ranks = {len(v) for k, v in lora.items() if k.endswith("lora_A.weight")}
    if len(ranks) > 1:
        raise ValueError(f"the LoRA factors have several ranks: {sorted(ranks)}")
    described = {"rank": ranks.pop(), "scale": SCALE, "targets": targets} if lora else None
    return native, lora, {"family": family, "config": full, "lora": described}


def merge(
    native: Mapping[str, Tensor], lora: Mapping[str, Tensor], scale: float = SCALE
) -> dict[str, Tensor]:
    """The weights with `scale * B @ A` added, computed in float32, in the weights' own type."""
    merged = dict(native)
    for name, down in lora.items():
        if not name.endswith(".lora_A.weight"):
            continue
        module = name.removesuffix(".lora_A.weight")
        weight = merged[f"{module}.weight"]
        delta = lora[f"{module}.lora_B.weight"].float() @ down.float()  # [out, in]
        merged[f"{module}.weight"] = (weight.float() + scale * delta).to(weight.dtype)
    return merged


def is_released_mllm(names: Mapping[str, Any]) -> bool:
    """Whether most of these look like the names of a published MLLM, whatever is before them."""
    parts = ("language_model.", "vision_model.", "vision_tower.", "mlp1.", "multi_modal_projector.")
    return 2 * sum(any(part in str(name) for part in parts) for name in names) > len(names)


# ---------------------------------------------------------------- names

_NAMES = {"internvl": "InternVL", "llava": "LLaVA"}


def strip_names(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights without what trainers and peft put before their names."""
    state = state_dict.get("state_dict", state_dict)
    short = {}
    for name, value in state.items():
        name = str(name).removeprefix("module.").removeprefix("backbone.")
        if name.startswith(_LM):
            name = _LM + name.removeprefix(_LM).removeprefix("base_model.model.")
        short[name] = value
    return short


def split_lora(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights by their plain names, and LoRA factors as `<module>.lora_A.weight`."""
    weights, factors = {}, {}
    for name, value in state.items():
        factor = re.fullmatch(r"(.+\.lora_[AB])(?:\.default)?\.weight", name)
        if factor:
            factors[f"{factor[1]}.weight"] = value
        elif ".original_module." not in name:  # peft's copy of what was trained in full
            weights[name.replace(".base_layer.", ".").replace(".modules_to_save.default.", ".")] = value
    return weights, factors


def family_of(state: Mapping[str, Any]) -> Family:
    """Told by the projector, or by the language model's layers where a file holds nothing else."""
    if any("mlp1." in name or ".attention.wqkv." in name for name in state):
        return "internvl"
    if any("multi_modal_projector." in name or ".self_attn.q_proj." in name for name in state):
        return "llava"
    raise ValueError(
        f"these are neither a UFO-InternVL nor a UFO-LLaVA: {_listing('unmapped', list(state))}; they have "
        "no mlp1. and no multi_modal_projector."
    )


def _layers(state: Mapping[str, Tensor], start: str) -> range:
    """The layers by the highest number in a key, so that a hole shows up as missing keys."""
    numbers = (name[len(start) :].split(".")[0] for name in state if name.startswith(start))
    highest = max((int(n) for n in numbers if n.isdecimal()), default=-1)
    return range(min(highest + 1, len(state)))


def name_table(family: Family, tower_layers: int, text_layers: int) -> _Table:
    """Official name -> native names for a model with so many layers."""
    table: _Table = {}
    if family == "internvl":
        table |= {name: _TOWER + ours for name, ours in _INTERNVIT.items()}
        start, rows, target = "vision_model.encoder.layers.", _INTERNVIT_LAYER, _TOWER + "encoder.layer."
        parts = {"mlp1.0": "layer_norm", "mlp1.1": "linear_1", "mlp1.3": "linear_2"}
    else:
        inner = "vision_tower.vision_model."
        table |= {inner + name: _TOWER + name for name in _CLIP}
        start, target = inner + "encoder.layers.", _TOWER + "encoder.layers."
        rows = {name: name for name in _CLIP_LAYER}
        parts = {f"multi_modal_projector.{n}": n for n in ("linear_1", "linear_2")}
    table |= _of_layers(range(tower_layers), start, rows, target)
    table |= {f"{a}.{k}": f"{_PROJECTOR}{b}.{k}" for a, b in parts.items() for k in ("weight", "bias")}
    fused = family == "internvl"
    table |= {_LM + name: ours for name, ours in (_INTERNLM if fused else _LLAMA).items()}
    rows = _INTERNLM_LAYER if fused else {name: name for name in _LLAMA_LAYER}
    return table | _of_layers(range(text_layers), _LM + "model.layers.", rows, _TEXT_LAYER)


def _of_layers(layers: range, start: str, rows: _Table, target: str) -> _Table:
    def place(i: int, ours: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if isinstance(ours, str):
            return f"{target}{i}.{ours}"
        return tuple(f"{target}{i}.{part}" for part in ours)

    return {f"{start}{i}.{name}": place(i, ours) for i in layers for name, ours in rows.items()}


# ---------------------------------------------------------------- tensors


def _place(
    name: str, value: Tensor, ours: str | tuple[str, ...], heads: tuple[int, int]
) -> Iterator[tuple[str, Tensor]]:
    """One official tensor under its native names, a fused one in its parts."""
    if isinstance(ours, str):
        yield ours, value
    elif name.startswith(_LM):
        yield from zip(ours, _split_wqkv(value, *heads), strict=True)
    else:
        yield from zip(ours, (part.contiguous() for part in value.chunk(3)), strict=True)


def _split_wqkv(fused: Tensor, heads: int, groups: int) -> list[Tensor]:
    """Rows of InternLM2's `wqkv [K*(g+2)*d, n]`: each key/value head has its g query heads before it."""
    parts = fused.unflatten(0, (groups, heads // groups + 2, -1))  # [K, g+2, d, n]
    q, k, v = parts.split([heads // groups, 1, 1], 1)
    return [part.flatten(0, 2).contiguous() for part in (q, k, v)]


def _place_factors(
    factors: Mapping[str, Tensor], table: _Table, native: Mapping[str, Tensor], heads: tuple[int, int]
) -> dict[str, Tensor]:
    """LoRA factors of native modules: A is shared by the parts of a fused weight, B's rows go with them."""
    placed: dict[str, Tensor] = {}
    modules = {name.split(".lora_")[0] for name in factors}
    unmapped = [m for m in sorted(modules) if f"{m}.weight" not in table]
    missing = [
        f"{m}.lora_{x}" for m in sorted(modules) for x in "AB" if f"{m}.lora_{x}.weight" not in factors
    ]
    if unmapped or missing:
        raise ValueError(
            f"LoRA factors without a place: {_listing('unmapped', unmapped)}; {_listing('missing', missing)}"
        )
    for module in modules:
        down, up = (factors[f"{module}.lora_{x}.weight"] for x in "AB")  # [r, in], [out, r]
        for name, rows in _place(module, up, table[f"{module}.weight"], heads):
            if rows.shape[:1] + down.shape[1:] != native[name].shape or rows.shape[1:] != down.shape[:1]:
                raise ValueError(f"the LoRA factors of {module} do not fit its weight")
            stem = name.removesuffix(".weight")
            placed |= {f"{stem}.lora_A.weight": down.clone(), f"{stem}.lora_B.weight": rows}
    return placed


# ---------------------------------------------------------------- architecture


def _config(state: Mapping[str, Tensor], family: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """A native config: what tensors tell, then `given`, then what the published models have.

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
        tower, layers, patch = "vision_model.", "encoder.layers.", "embeddings.patch_embedding.weight"
        positions, gate = state[tower + "embeddings.position_embedding"].shape[1], "feed_forward.w1.weight"
        embedding = state[_LM + "model.tok_embeddings.weight"]
    else:
        tower, layers, patch = "vision_tower.vision_model.", "encoder.layers.", _CLIP[1]
        positions, gate = len(state[tower + _CLIP[2]]), "mlp.gate_proj.weight"
        embedding = state[_LM + "model.embed_tokens.weight"]
    kernel = state[tower + patch]
    side = round((positions - 1) ** 0.5) * kernel.shape[-1]
    square = (lambda n: [n, n]) if family == "internvl" else (lambda n: n)
    if state[f"{_LM}model.layers.0.{gate}"].ndim != 2 or embedding.ndim != 2 or kernel.ndim != 4:
        raise ValueError("the embedding, the MLP or the patches have no shape that fits a UFO model")
    return {
        "text_config": {
            "vocab_size": embedding.shape[0],
            "hidden_size": embedding.shape[1],
            "intermediate_size": len(state[f"{_LM}model.layers.0.{gate}"]),
            "num_hidden_layers": len(_layers(state, _LM + "model.layers.")),
        },
        "vision_config": {
            "hidden_size": kernel.shape[0],
            "intermediate_size": len(state[f"{tower}{layers}0.mlp.fc1.weight"]),
            "num_hidden_layers": len(_layers(state, tower + layers)),
            "image_size": square(side),
            "patch_size": square(kernel.shape[-1]),
        },
    }


def _kv_rows(state: Mapping[str, Tensor], family: str, text: Mapping[str, Any]) -> int:
    """Rows of the key projection: `K * d`."""
    if family == "llava":
        return len(state[_LM + "model.layers.0.self_attn.k_proj.weight"])
    return (len(state[_LM + "model.layers.0.attention.wqkv.weight"]) - text["hidden_size"]) // 2


def _joined(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two nested configs; values of `above` win."""
    both = dict(below)
    for key, value in above.items():
        nested = isinstance(value, Mapping) and isinstance(both.get(key), Mapping) and key.endswith("_config")
        both[key] = _joined(both[key], value) if nested else value
    return both
