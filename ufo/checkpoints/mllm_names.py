"""Names of the released UFO-InternVL and UFO-LLaVA weights, and ours for them.

Our names are those of transformers' classes, `InternVLForConditionalGeneration` and
`LlavaForConditionalGeneration`. The layout in which InternVL2.5 itself was published (without `backbone.`) is
read as well. Only names are treated here; `ufo.checkpoints.mllm_weights` moves the tensors
(docs/published_system.md#mllm-files).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from ufo.checkpoints.errors import listing

Family = Literal["internvl", "llava"]
FAMILY_NAMES = {"internvl": "InternVL", "llava": "LLaVA"}
LANGUAGE_MODEL = "language_model."  # before the released names of the language model
_TOWER, _PROJECTOR = "model.vision_tower.", "model.multi_modal_projector."
_TEXT_LAYER = "model.language_model.layers."

# released name -> transformers' name; a tuple: the parts of a fused tensor, one below the other
Table = dict[str, "str | tuple[str, ...]"]

_INTERNVIT: dict[str, str] = {
    "vision_model.embeddings.class_embedding": "embeddings.cls_token",
    "vision_model.embeddings.position_embedding": "embeddings.position_embeddings",
    "vision_model.embeddings.patch_embedding.weight": "embeddings.patch_embeddings.projection.weight",
    "vision_model.embeddings.patch_embedding.bias": "embeddings.patch_embeddings.projection.bias",
}
_INTERNVIT_LAYER: Table = {
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
CLIP_PATCHES = "embeddings.patch_embedding.weight"
CLIP_POSITIONS = "embeddings.position_embedding.weight"
_CLIP = (
    "embeddings.class_embedding",
    CLIP_PATCHES,
    CLIP_POSITIONS,
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
_INTERNLM: Table = {
    "model.tok_embeddings.weight": "model.language_model.embed_tokens.weight",
    "model.norm.weight": "model.language_model.norm.weight",
    "output.weight": "lm_head.weight",
}
_INTERNLM_LAYER: Table = {
    "attention.wqkv.weight": tuple(f"self_attn.{p}_proj.weight" for p in "qkv"),
    "attention.wo.weight": "self_attn.o_proj.weight",
    "feed_forward.w1.weight": "mlp.gate_proj.weight",
    "feed_forward.w3.weight": "mlp.up_proj.weight",
    "feed_forward.w2.weight": "mlp.down_proj.weight",
    "attention_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
}
_LLAMA: Table = {
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


def is_released_mllm(names: Mapping[str, Any]) -> bool:
    """Whether most of these look like the names of a released MLLM, whatever is before them."""
    parts = ("language_model.", "vision_model.", "vision_tower.", "mlp1.", "multi_modal_projector.")
    return 2 * sum(any(part in str(name) for part in parts) for name in names) > len(names)


def strip_names(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights without what trainers and peft put before their names."""
    state = state_dict.get("state_dict", state_dict)
    short = {}
    for name, value in state.items():
        name = str(name).removeprefix("module.").removeprefix("backbone.")
        if name.startswith(LANGUAGE_MODEL):
            name = LANGUAGE_MODEL + name.removeprefix(LANGUAGE_MODEL).removeprefix("base_model.model.")
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
        f"these are neither a UFO-InternVL nor a UFO-LLaVA: {listing('unmapped', list(state))}; they have "
        "no mlp1. and no multi_modal_projector."
    )


def layers(state: Mapping[str, Tensor], start: str) -> range:
    """The layers by the highest number in a key, so that a hole shows up as missing keys."""
    numbers = (name[len(start) :].split(".")[0] for name in state if name.startswith(start))
    highest = max((int(n) for n in numbers if n.isdecimal()), default=-1)
    return range(min(highest + 1, len(state)))


def name_table(family: Family, tower_layers: int, text_layers: int) -> Table:
    """Released name -> native names for a model with so many layers."""
    table: Table = {}
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
    table |= {LANGUAGE_MODEL + name: ours for name, ours in (_INTERNLM if fused else _LLAMA).items()}
    rows = _INTERNLM_LAYER if fused else {name: name for name in _LLAMA_LAYER}
    return table | _of_layers(range(text_layers), LANGUAGE_MODEL + "model.layers.", rows, _TEXT_LAYER)


def _of_layers(layers: range, start: str, rows: Table, target: str) -> Table:
    def place(i: int, ours: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if isinstance(ours, str):
            return f"{target}{i}.{ours}"
        return tuple(f"{target}{i}.{part}" for part in ours)

    return {f"{start}{i}.{name}": place(i, ours) for i in layers for name, ours in rows.items()}
