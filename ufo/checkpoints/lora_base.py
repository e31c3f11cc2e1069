"""The frozen weights under a LoRA: a checkpoint names them, with a fingerprint, and does not hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ufo.backbones.lora import fingerprint, frozen, has_adapters, plain_name
from ufo.checkpoints import pretrained_lm
from ufo.checkpoints.errors import CheckpointError
from ufo.checkpoints.model_folder import NET, twins
from ufo.checkpoints.read import read
from ufo.checkpoints.transformers_folder import downloaded
from ufo.model import UFO


def remember_base(
    model: UFO, name: str | Path, changed: Sequence[str], under: str | Path | None = None
) -> None:
    """Note where the frozen weights come from; `changed` ones are saved with what was trained."""
    kept = [k.removeprefix("backbone.") for k in renamed(model, dict.fromkeys(changed))]
    held = {k: v for k, v in frozen(model.backbone).items() if k not in kept}
    record = {"name": lasting(name), "fingerprint": fingerprint(held), "except": kept}
    if under is not None:
        record["base"] = lasting(under)
    model.backbone.base = record if held and model.backbone.lora else None


def lasting(name: str | Path) -> str:
    """A path as it is found from any folder; a name on the hub stays one."""
    return str(Path(name).absolute() if Path(name).exists() else name)


def renamed(model: UFO, weights: Mapping[str, Any]) -> dict[str, Any]:
    """Weights under the names that they have below adapters."""
    below = {plain_name(k): k for k in model.state_dict()}
    return {below.get(k, k): v for k, v in weights.items()}


def with_base(
    model: UFO,
    weights: Mapping[str, Tensor],
    record: Mapping[str, Any] | None,
    moved: str | Path | None,
    path: str | Path,
) -> dict[str, Tensor]:
    """The weights of a checkpoint, and those of its base for all that it does not hold.

    Raises CheckpointError where the base is not to be had or is another one.
    """
    missing = model.state_dict().keys() - weights.keys() - twins(model).keys()
    if record is None or not missing:
        return dict(weights)
    name: str | Path = _base_place(record["name"], path)
    under = record.get("base") and _base_place(record["base"], path)
    if moved is not None and under is not None and not Path(moved).is_file():
        under = moved  # a LoRA lies between it and the checkpoint
    elif moved is not None:
        name = moved
    try:
        name = name if name == moved else _here(model, name)
        under = under if under in (None, moved) else _here(model, under)
        found = renamed(model, _base_weights(model, name, under))
    except CheckpointError as error:
        raise CheckpointError(
            f"'{path}' holds only what was trained, and its base '{name}' cannot be read: {error}. If the "
            "base has moved: ufo.load(PATH, base=FOLDER), --base FOLDER (ufo), base=FOLDER (evaluate.py), "
            "init='{file: PATH, base: FOLDER}' (train.py)"
        ) from error
    complete = {**{k: v for k, v in found.items() if k in missing}, **weights}
    held: dict[str, Any] = {
        k: complete.get(f"backbone.{k}") for k in frozen(model.backbone) if k not in record["except"]
    }
    if None in held.values() or fingerprint(held) != record["fingerprint"]:
        raise CheckpointError(
            f"'{path}' is for another base than '{name}': it was trained on '{record['name']}' with the "
            f"fingerprint {record['fingerprint']}; give that one"
        )
    return complete


def _base_place(name: str, path: str | Path) -> str:
    """Where a base is: a relative name starts here, or at a folder above the checkpoint."""
    if Path(name).is_absolute() or Path(name).exists():
        return name
    above = (folder / name for folder in Path(path).absolute().parents)
    return next((str(place) for place in above if place.exists()), name)


def _here(model: UFO, name: str | Path) -> str | Path:
    """A base that a checkpoint names: if it is on the hub, what was downloaded before."""
    here = Path(name).exists() or not pretrained_lm.recognises(model.backbone, name)
    return name if here else downloaded(str(name))


def _base_weights(model: UFO, name: str | Path, under: str | Path | None = None) -> dict[str, Tensor]:
    if pretrained_lm.recognises(model.backbone, name):
        start = pretrained_lm.read(model.backbone, name, under)
        weights = start.weights if has_adapters(model.backbone.lora) else start.merged()
        return {NET + k: v for k, v in weights.items()}
    description, weights = read(name, complete=False)
    if description["backbone"]["type"] != type(model.backbone).__name__:
        raise CheckpointError(f"'{name}' holds a {description['backbone']['type']}")
    return weights
