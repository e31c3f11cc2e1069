"""Checkpoints as the authors of UFO released them: a file or folder is recognised, whichever family it is of.

UFO-ViT is in `released_vit.py`, UFO-InternVL and UFO-LLaVA are in `released_mllm.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ufo.backbones.ufo_vit import UFOViT
from ufo.checkpoints import safe_pickle, stored_tensors
from ufo.checkpoints.errors import CheckpointError
from ufo.checkpoints.mllm_names import is_released_mllm
from ufo.checkpoints.released_checkpoint import ReleasedCheckpoint
from ufo.checkpoints.released_mllm import ReleasedMLLM
from ufo.checkpoints.released_vit import ReleasedViT
from ufo.checkpoints.transformers_folder import REMOTE, read_config
from ufo.checkpoints.vit_names import PREFIX, architecture, convert_keys


def is_released(path: Path) -> bool:
    """Whether a folder holds released weights: no model folder of this project and none of transformers."""
    if not (path.is_dir() and stored_tensors.is_stored(path)):
        return False
    config = read_config(path)
    if not config and (path / "vocab.txt").is_file():  # a model folder that has lost its config
        return False
    return config.get("model_type") in (None, REMOTE) and not config.keys() & {"ufo", "backbone"}


def open_released(path: Path, base: str | Path | None = None) -> ReleasedCheckpoint:
    """The released checkpoint in a file or a folder, of any family; see `recognise`."""
    if path.is_dir() or path.suffix == ".safetensors":
        return _recognise(stored_tensors.read_tensors(path), path, base, None)
    return recognise(safe_pickle.read_pickle(path), path, base)


def recognise(content: Mapping[str, Any], path: Path, base: str | Path | None = None) -> ReleasedCheckpoint:
    """A released checkpoint from the content of its file (see `safe_pickle.read_pickle`), of any family.

    Args:
        base: the folder of the model that a LoRA was trained on, for a file that holds only what was trained.

    Raises CheckpointError for weights of anything else; it lists unmapped and missing keys.
    """
    return _recognise(safe_pickle.state_dict(content, path), path, base, safe_pickle.trained_tasks(content))


def _recognise(
    state: Mapping[str, Tensor], path: Path, base: str | Path | None, tasks: list[str] | None
) -> ReleasedCheckpoint:
    if is_released_mllm(state):
        return ReleasedMLLM(path, state, base)
    if base is not None:
        raise CheckpointError(f"'{path}' is whole and no language model; leave out the base")
    try:
        backbone = architecture(state)
        with torch.device("meta"):  # takes no memory; refuses what fits no network
            UFOViT(**backbone)
        weights = convert_keys(state)
    except ValueError as error:
        raise CheckpointError(f"'{path}': {error}") from error
    weights = {PREFIX + name: tensor.to(torch.float32) for name, tensor in weights.items()}
    return ReleasedViT(path, {"type": "UFOViT", **backbone}, weights, tasks)
