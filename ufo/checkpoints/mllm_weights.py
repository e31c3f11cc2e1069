"""Tensors of the released UFO-InternVL and UFO-LLaVA files: read, merged with their LoRA, and written back.

`read_released_mllm` gives the weights by transformers' names, the LoRA factors and a description; `merge`
adds the factors to the weights; `to_released` is the way back (docs/published_system.md#mllm-files).
Shapes: `K` key/value heads, `g` query heads for each of them, `d` width of a head, `n` columns, `r` rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ufo.checkpoints.errors import listing
from ufo.checkpoints.mllm_architecture import released_config
from ufo.checkpoints.mllm_names import (
    FAMILY_NAMES,
    LANGUAGE_MODEL,
    Family,
    Table,
    family_of,
    layers,
    name_table,
    split_lora,
    strip_names,
)

SCALE = 2.0  # alpha / rank of every released LoRA; the factors alone do not tell


def read_released_mllm(
    state_dict: Mapping[str, Any], config: Mapping[str, Any] | None = None
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Native weights, LoRA factors and a description of a released UFO-InternVL or UFO-LLaVA.

    Args:
        state_dict: the file's content, or its `state_dict`; LoRA or full, peft's old or new names.
        config: a native config's values that win over those of the released models, for example
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
    tower_layers = layers(state, f"{tower}encoder.layers.")
    text_layers = layers(state, f"{LANGUAGE_MODEL}model.layers.")
    table = name_table(family, len(tower_layers), len(text_layers))
    unmapped = [name for name in state if name not in table]
    missing = [name for name in table if name not in state]
    if unmapped or missing:
        raise ValueError(
            f"these are not the released names of a UFO-{FAMILY_NAMES[family]}: "
            f"{listing('unmapped', unmapped)}; {listing('missing', missing)}"
        )
    full = released_config(state, family, config or {})
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


def to_released(native: Mapping[str, Tensor], family: Family, heads: tuple[int, int]) -> dict[str, Tensor]:
    """Native weights by the released names, without `backbone.`: the inverse of `read_released_mllm`.

    Args:
        native: by the names of `InternVLForConditionalGeneration` or `LlavaForConditionalGeneration`.
        family: internvl or llava.
        heads: attention heads and key/value heads of the language model.

    Raises ValueError where a native weight is missing or has no place.
    """
    text_layers = layers(native, "model.language_model.layers.")
    tower = "model.vision_tower.encoder."
    tower_layers = layers(native, tower + "layer.") or layers(native, tower + "layers.")
    table = name_table(family, len(tower_layers), len(text_layers))
    wanted = {part for ours in table.values() for part in ([ours] if isinstance(ours, str) else ours)}
    if native.keys() != wanted:
        missing, more = sorted(wanted - native.keys()), sorted(native.keys() - wanted)
        raise ValueError(
            f"these are not the weights of a {family}: {len(missing)} missing ({', '.join(missing[:3])}), "
            f"{len(more)} without a place ({', '.join(more[:3])})"
        )
    released = {}
    for name, ours in table.items():
        if isinstance(ours, str):
            released[name] = native[ours]
        elif name.startswith("language_model."):
            released[name] = _fuse_wqkv([native[part] for part in ours], *heads)
        else:
            released[name] = torch.cat([native[part] for part in ours])
    return released


# ---------------------------------------------------------------- parts of fused tensors


def _place(
    name: str, value: Tensor, ours: str | tuple[str, ...], heads: tuple[int, int]
) -> Iterator[tuple[str, Tensor]]:
    """One released tensor under its native names, a fused one in its parts."""
    if isinstance(ours, str):
        yield ours, value
    elif name.startswith(LANGUAGE_MODEL):
        yield from zip(ours, _split_wqkv(value, *heads), strict=True)
    else:
        yield from zip(ours, (part.contiguous() for part in value.chunk(3)), strict=True)


def _split_wqkv(fused: Tensor, heads: int, groups: int) -> list[Tensor]:
    """Rows of InternLM2's `wqkv [K*(g+2)*d, n]`: each key/value head has its g query heads before it."""
    parts = fused.unflatten(0, (groups, heads // groups + 2, -1))  # [K, g+2, d, n]
    q, k, v = parts.split([heads // groups, 1, 1], 1)
    return [part.flatten(0, 2).contiguous() for part in (q, k, v)]


def _fuse_wqkv(parts: list[Tensor], heads: int, groups: int) -> Tensor:
    """InternLM2's `wqkv [K*(g+2)*d, n]` of q `[K*g*d, n]`, k and v `[K*d, n]`."""
    sizes = (heads // groups, 1, 1)
    apart = [part.unflatten(0, (groups, size, -1)) for part, size in zip(parts, sizes, strict=True)]
    return torch.cat(apart, 1).flatten(0, 2)  # [K, g+2, d, n] -> rows


def _place_factors(
    factors: Mapping[str, Tensor], table: Table, native: Mapping[str, Tensor], heads: tuple[int, int]
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
            f"LoRA factors without a place: {listing('unmapped', unmapped)}; {listing('missing', missing)}"
        )
    for module in modules:
        down, up = (factors[f"{module}.lora_{x}.weight"] for x in "AB")  # [r, in], [out, r]
        for name, rows in _place(module, up, table[f"{module}.weight"], heads):
            if rows.shape[:1] + down.shape[1:] != native[name].shape or rows.shape[1:] != down.shape[:1]:
                raise ValueError(f"the LoRA factors of {module} do not fit its weight")
            stem = name.removesuffix(".weight")
            placed |= {f"{stem}.lora_A.weight": down.clone(), f"{stem}.lora_B.weight": rows}
    return placed
