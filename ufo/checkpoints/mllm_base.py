"""A released LoRA that holds only what was trained, completed from the base that it was trained on.

The base is found in either layout: the one in which its authors published it, or transformers'. See
docs/published_system.md#mllm-files.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ufo.checkpoints.errors import CheckpointError
from ufo.checkpoints.mllm_names import Family, family_of, split_lora, strip_names
from ufo.checkpoints.mllm_weights import to_released
from ufo.checkpoints.stored_tensors import read_tensors
from ufo.checkpoints.transformers_folder import REMOTE, download, load_native, read_config

log = logging.getLogger(__name__)

BASES = {
    "internvl": "OpenGVLab/InternVL2-8B or OpenGVLab/InternVL2_5-8B",
    "llava": "llava-hf/llava-1.5-7b-hf",
}


@dataclass
class Completed:
    """Released weights with what a base added, and what is to be said about it."""

    state: dict[str, Tensor]
    from_base: int  # tensors that are the base's
    replaced: int  # tensors of the base that the file has itself


def is_partial(state: Mapping[str, Any]) -> bool:
    """Whether LoRA factors lack the weights they belong to, so that a base is needed."""
    weights, factors = split_lora(strip_names(state))
    return any(f"{name.split('.lora_')[0]}.weight" not in weights for name in factors)


def complete(state: Mapping[str, Any], base: Mapping[str, Any]) -> Completed:
    """A partial file's tensors over those of its base, both by the released names.

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


def with_base(state: Mapping[str, Any], path: str | Path, base: str | Path | None) -> Mapping[str, Any]:
    """The weights of a released file, completed from its base where it holds only what was trained.

    Raises CheckpointError that names the base a partial file wants, or where a base does not belong to it.
    """
    if not is_partial(state):
        if base is not None:
            raise CheckpointError(f"'{path}' is whole already; leave out the base '{base}'")
        return state
    family = family_of(state)
    if base is None:
        raise CheckpointError(
            f"'{path}' holds only what its LoRA trained ({len(state)} tensors); name the folder of the "
            f"model it was "
            f"trained on, {BASES[family]}: --base FOLDER (ufo), base=FOLDER (evaluate.py), "
            "init='{file: FILE, base: FOLDER}' (train.py)"
        )
    try:
        completed = complete(state, read_base(base, family))
    except ValueError as error:
        raise CheckpointError(f"'{path}' and its base '{base}': {error}") from error
    log.info("%s: %d tensors of its own, %d taken from %s", path, len(state), completed.from_base, base)
    return completed.state


def read_base(name: str | Path, family: Family) -> dict[str, Tensor]:
    """The weights of a base by the released names, in whichever of the two layouts its folder has them.

    Raises CheckpointError: not to be had, damaged, or of another family.
    """
    folder = Path(name) if Path(name).is_dir() else download(str(name))
    kind = read_config(folder).get("model_type")
    if kind in (None, REMOTE):
        return read_tensors(folder)
    if kind != family:
        raise CheckpointError(f"the base '{name}' is a {kind}, and the LoRA is for a {family}")
    import transformers

    classes = {"internvl": "InternVLForConditionalGeneration", "llava": "LlavaForConditionalGeneration"}
    weights, config = load_native(getattr(transformers, classes[family]), folder, name)
    text = config.get_text_config()
    try:
        return to_released(weights, family, (text.num_attention_heads, text.num_key_value_heads))
    except ValueError as error:
        raise CheckpointError(f"the base '{name}': {error}") from error
