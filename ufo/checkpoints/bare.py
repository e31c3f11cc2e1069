"""Weights of a model of ours without what describes it, as `torch.save(model.state_dict())` leaves them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ufo.checkpoints.errors import CheckpointError

OWN = ("backbone.embedding.word.weight", "backbone.net.")
"""How our names of a UFO-ViT's and of a language model's weights begin; released ones have others."""
WRAPPERS = ("module.", "_orig_mod.", "model.")  # DDP, torch.compile, a LightningModule
INSIDE = ("state_dict", "model", "model_state_dict", "weights")  # where training loops put weights


def refuse_bare(content: Mapping[str, Any], path: Path) -> None:
    """Raises CheckpointError that says what to do with weights that no model can be built of."""
    places = [(f"['{key}']", content[key]) for key in INSIDE if isinstance(content.get(key), Mapping)]
    for place, state in [("", content), *places]:
        if _are_own(state):
            raise CheckpointError(
                f"'{path}' holds weights without their model's settings: write a folder with "
                "model.save_pretrained(folder), or give the weights to the model they came from, "
                f"model.load_state_dict(torch.load({str(path)!r}){place})"
            )


def refuse_alone(path: Path) -> None:
    """Raises CheckpointError for a safetensors file of a model folder, without that folder."""
    try:
        with safe_open(path, "pt") as file:
            own = _are_own(file.keys())
    except (SafetensorError, OSError):  # whoever reads it says so
        return
    if own:
        raise CheckpointError(f"'{path}' is the weights of a model folder; give the folder, '{path.parent}'")


def _are_own(names: Iterable[Any]) -> bool:
    return any(_plain(str(name)).startswith(OWN) for name in names)


def _plain(name: str) -> str:
    """A name without what wrappers put before it."""
    for wrapper in WRAPPERS * 2:
        name = name.removeprefix(wrapper)
    return name
