"""The base under a published LoRA: found in either layout, and joined with a file that holds only what was
trained.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ufo.checkpoints.errors import CheckpointError
from ufo.checkpoints.mllm_names import Family, family_of
from ufo.checkpoints.official_layout import BASES, complete, is_partial, to_released
from ufo.checkpoints.stored_tensors import read_tensors
from ufo.checkpoints.transformers_folder import REMOTE, download, load_native, read_config

log = logging.getLogger(__name__)


def with_base(state: Mapping[str, Any], path: str | Path, base: str | Path | None) -> Mapping[str, Any]:
    """The weights of a published file, completed from its base where it holds only what was trained.

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
    """The weights of a base by the published names, in whichever of the two layouts its folder has them.

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
