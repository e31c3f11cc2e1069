"""Published layouts of language models: a partial file over its base; native names to published ones.

A released LoRA file may hold only what was trained; the rest is its base's. See
docs/published_system.md#mllm-files.
Shapes: `K` key/value heads, `g` query heads for each of them, `d` width of a head, `n` columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ufo.checkpoints.mllm_names import Family, name_table, split_lora, strip_names

BASES = {
    "internvl": "OpenGVLab/InternVL2-8B or OpenGVLab/InternVL2_5-8B",
    "llava": "llava-hf/llava-1.5-7b-hf",
}


@dataclass
class Completed:
    """Official weights with what a base added, and what is to be said about it."""

    state: dict[str, Tensor]
    from_base: int  # tensors that are the base's
    replaced: int  # tensors of the base that the file has itself


def is_partial(state: Mapping[str, Any]) -> bool:
    """Whether LoRA factors lack the weights they belong to, so that a base is needed."""
    weights, factors = split_lora(strip_names(state))
    return any(f"{name.split('.lora_')[0]}.weight" not in weights for name in factors)


def complete(state: Mapping[str, Any], base: Mapping[str, Any]) -> Completed:
    """A partial file's tensors over those of its base, both by the published names.

    The file wins: its embedding and head have rows for UFO's tokens that the base lacks. Whether every
    name has a place and all factors fit is checked where the result is read (`read_released_mllm`).
    """
    weights, factors = split_lora(strip_names(state))
    under, strange = split_lora(strip_names(base))
    if strange:
        raise ValueError(
            "the base holds LoRA factors itself; give the folder of the model before it was trained"
        )
    both = {**under, **weights, **factors}
    return Completed(both, len(under.keys() - weights.keys()), len(under.keys() & weights.keys()))


def to_released(native: Mapping[str, Tensor], family: Family, heads: tuple[int, int]) -> dict[str, Tensor]:
    """Native weights by the published names, without `backbone.`: the inverse of `read_released_mllm`.

    Args:
        native: by the names of `InternVLForConditionalGeneration` or `LlavaForConditionalGeneration`.
        family: internvl or llava.
        heads: attention heads and key/value heads of the language model.

    Raises ValueError where a native weight is missing or has no place.
    """
    layers = _layers(native, "model.language_model.layers.")
    tower = _layers(native, "model.vision_tower.encoder.layer.", "model.vision_tower.encoder.layers.")
    table = name_table(family, tower, layers)
    wanted = {part for ours in table.values() for part in ([ours] if isinstance(ours, str) else ours)}
    if native.keys() != wanted:
        missing, more = sorted(wanted - native.keys()), sorted(native.keys() - wanted)
        raise ValueError(
            f"these are not the weights of a {family}: {len(missing)} missing ({', '.join(missing[:3])}), "
            f"{len(more)} without a place ({', '.join(more[:3])})"
        )
    official = {}
    for name, ours in table.items():
        if isinstance(ours, str):
            official[name] = native[ours]
        elif name.startswith("language_model."):
            official[name] = _fuse_wqkv([native[part] for part in ours], *heads)
        else:
            official[name] = torch.cat([native[part] for part in ours])
    return official


def _fuse_wqkv(parts: list[Tensor], heads: int, groups: int) -> Tensor:
    """InternLM2's `wqkv [K*(g+2)*d, n]` of q `[K*g*d, n]`, k and v `[K*d, n]`."""
    sizes = (heads // groups, 1, 1)
    apart = [part.unflatten(0, (groups, size, -1)) for part, size in zip(parts, sizes, strict=True)]
    return torch.cat(apart, 1).flatten(0, 2)  # [K, g+2, d, n] -> rows


def _layers(native: Mapping[str, Tensor], *starts: str) -> int:
    numbers = (name[len(s) :].split(".")[0] for s in starts for name in native if name.startswith(s))
    highest = max((int(n) for n in numbers if n.isdecimal()), default=-1)
    return min(highest + 1, len(native))
