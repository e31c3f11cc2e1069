"""The project's own checkpoints: a model folder (see `ufo.checkpoints.model_folder`) or a Lightning `.ckpt`.

A checkpoint carries all that rebuilds its model, but for the frozen weights of a LoRA, which its base holds.
A released `.pth` is converted when it is read. Loading is strict, executes nothing, and prints one line:
matched, missing, unexpected.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ufo import places
from ufo.backbones.lora import (
    ADAPTER,
    LoRASettings,
    apply_lora,
    has_adapters,
    shrink_base,
    start_adapters,
)
from ufo.backbones.vocabulary import fit_vocabulary
from ufo.checkpoints import grow, pretrained_lm, pretrained_sam
from ufo.checkpoints.bounds import no_more_than
from ufo.checkpoints.errors import CheckpointError
from ufo.checkpoints.hub_models import fetch_model, fetched, hub_name
from ufo.checkpoints.lora_base import lasting, remember_base, renamed, with_base
from ufo.checkpoints.model_folder import FORMAT, previous, save
from ufo.checkpoints.read import build, build_for, check_architecture, load_weights, no_values, read
from ufo.checkpoints.transformers_folder import download
from ufo.model import UFO

log = logging.getLogger(__name__)

ALIGNMENT = 64  # bytes, at multiples of which torch puts its own tensors

__all__ = [
    "FORMAT",
    "CheckpointError",
    "build",
    "build_for",
    "check_base",
    "check_same_model",
    "check_start",
    "initialise",
    "load",
    "load_weights",
    "no_values",
    "prepare_training",
    "read",
    "save",
]


def load(
    path: str | Path,
    device: torch.device | str = "cpu",
    base: str | Path | None = None,
    experiment: str | None = None,
) -> UFO:
    """The model of a checkpoint (folder, `.ckpt`, released `.pth`, name on the hub), ready to predict.

    Args:
        base: where the base of a LoRA is now, if it has moved since; the model under a released LoRA whose
            file holds only what was trained.
        experiment: the one that a released file came from, if it has no longer the name that tells.

    Raises CheckpointError if it is not a checkpoint of this project or does not match itself or its base.
    """
    overrides = [f"experiment={experiment}"] if experiment else []
    if name := hub_name(path):
        path = fetch_model(name)
    description, weights = read(path, base=base, overrides=overrides)
    # all values are in files
    with no_values(), no_more_than(weights, elsewhere=bool(description.get("base"))):
        model = build_for(description, path)
    weights = with_base(model, weights, description.get("base"), base, path)
    load_weights(model, weights, path, assign=True)
    shrink_base(model.backbone, torch.device(device))
    model.to(device).eval()
    _align(model)
    return model


def _align(model: UFO) -> None:
    """Copy weights that a file has left at odd places in memory.

    A CPU's products are computed in another order there: the same weights of another file would give other
    last bits.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type == "cpu" and tensor.data_ptr() % ALIGNMENT:
            tensor.data = tensor.data.clone()


# ---------------------------------------------------------------- starting weights


def check_start(model: UFO, path: str | Path | Mapping[str, str | None]) -> None:
    """Raises CheckpointError where there is nothing at the place that `initialise` would read.

    What the hub has is downloaded. Asked before data are read, which may take hours.
    """
    if isinstance(path, Mapping) and "file" in path:
        for part in filter(None, (path["file"], path.get("base"))):
            check_start(model, part)
        return
    if start := pretrained_sam.source(path):
        return pretrained_sam.check(model, *start)
    try:
        path = fetched(path, partial(pretrained_lm.recognises, model.backbone))
    except CheckpointError as error:
        raise CheckpointError(f"init: {error}") from error
    place = places.shipped(str(path)) or Path(str(path))
    if place.exists() or previous(place).is_dir():
        return
    if not pretrained_lm.recognises(model.backbone, str(path)):
        raise CheckpointError(
            f"no checkpoint at init={path}, where this training starts; give a checkpoint, or "
            f"{pretrained_sam.RANDOM}"
        )
    download(str(path))


def initialise(model: UFO, path: str | Path | Mapping[str, str | None], strict: bool = False) -> None:
    """Start a model from a checkpoint of the same architecture, or from pretrained weights (`init=`).

    A UFO-ViT may also start from one of another image size, vocabulary, prompt length or number of layers
    (see `ufo.checkpoints.grow`); one line of the log says what is not as it was.

    Args:
        model: with random weights.
        path: a checkpoint (see `read`); for a language model also what `ufo.checkpoints.pretrained_lm` reads;
            for UFO-ViT also `sam`, the name or folder of a SAM, or `{sam: ..., bert: ...}`; for a LoRA whose
            base has moved, or a released one that names none, `{file: ..., base: ...}`.
        strict: refuse a UFO-ViT that is not of exactly this architecture and vocabulary.

    Raises CheckpointError naming both architectures where they differ.
    """
    moved: str | None = None
    if isinstance(path, Mapping) and "file" in path:
        moved, path = path.get("base"), str(path["file"])
    elif start := pretrained_sam.source(path):
        return pretrained_sam.initialise(model, *start)
    assert not isinstance(path, Mapping), "a mapping names a SAM"
    path = fetched(path, partial(pretrained_lm.recognises, model.backbone))
    if pretrained_lm.recognises(model.backbone, path):
        return _from_pretrained(model, path, moved)
    description, weights = read(path, complete=False, base=moved)
    free: Set[str] = frozenset()
    if grow.grows(model, description) and not has_adapters(description.get("lora")):
        first_stage = (
            {"new_layers", "mean_layers"} if description["backbone"].get("new_layers") == 0 else set()
        )
        free = first_stage if strict else grow.FREE
    check_architecture(model, description, path, free)
    if free:
        grown = grow.grow(model, description, weights)
        weights = grown.weights
        if grown.changed:
            log.info("%s: %s", path, grown)
    base = description.get("base")
    if has_adapters(description.get("lora")):
        if _adapters(description.get("lora")) != _adapters(model.backbone.lora):
            raise CheckpointError(
                f"'{path}' is a LoRA of another kind than lora= of this run; merge it first: "
                f"ufo convert --merge {path} OUT, then init=OUT"
            )
        weights = with_base(model, weights, base, moved, path)
        load_weights(model, weights, path)
        model.backbone.base = {**base, "name": lasting(moved)} if base and moved else base
        return
    weights = with_base(model, weights, base, moved, path)  # of a run with frozen parts
    _adopt(model, weights, path)


def _from_pretrained(model: UFO, path: str | Path, base: str | Path | None = None) -> None:
    start = pretrained_lm.read(model.backbone, path, base)
    adapters = {}
    if has_adapters(model.backbone.lora):
        adapters = pretrained_lm.adapters_for(model, start, path) if start.adapters else {}
    else:
        start = replace(start, weights=start.merged(), adapters={}, scale=1.0)
    weights, changed = pretrained_lm.for_model(model, start, path)
    if (model.backbone.lora or {}).get("fresh_norm") and not start.finished:
        changed.append(pretrained_lm.fresh_norm(model, weights))
    _adopt(model, weights, path, adapters, changed, base)


def _adopt(
    model: UFO,
    weights: Mapping[str, Tensor],
    path: str | Path,
    adapters: Mapping[str, Tensor] | None = None,
    changed: Sequence[str] = (),
    under: str | Path | None = None,
) -> None:
    """Load a base under the adapters of a model, and remember its name where parts of it stay as they are.

    `adapters` that have learned already; `changed` names weights that are no longer those of the base;
    `under` is what completes it, if it is itself a LoRA.
    """
    own = {k: v for k, v in model.state_dict().items() if ADAPTER in k}
    load_weights(model, own | renamed(model, weights) | dict(adapters or {}), path)
    if not adapters:
        start_adapters(model.backbone)
    remember_base(model, path, changed, under)


def prepare_training(
    model: UFO, lora: LoRASettings | Mapping[str, Any], loaded: str | Path | None = None
) -> None:
    """Freeze what does not train and put in adapters; `loaded` names the weights the backbone already has.

    Rows of new tokens then start as `ufo.checkpoints.pretrained_lm.for_model` has them.
    """
    apply_lora(model.backbone, lora)
    if loaded is None:
        return
    weights, changed = {}, []
    head = model.backbone.output_embedding
    if new := model.tokenizer.appended:
        with torch.no_grad():
            head.copy_(fit_vocabulary(head, len(head), len(head) - new))
        changed = [
            k for k in model.state_dict() if model.backbone.is_text(k) and not k.endswith("norm.weight")
        ]
    if (model.backbone.lora or {}).get("fresh_norm"):
        weights = dict(model.state_dict())
        changed.append(pretrained_lm.fresh_norm(model, weights))
        model.load_state_dict({changed[-1]: weights[changed[-1]]}, strict=False)
    start_adapters(model.backbone)
    remember_base(model, loaded, changed)


def _adapters(settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """What must agree for adapters to be of the same kind; empty without adapters."""
    keys = ("r", "alpha", "targets", "dora", "rslora")
    return {k: settings[k] for k in keys} if settings and has_adapters(settings) else {}


# ---------------------------------------------------------------- resuming


def check_same_model(model: UFO, description: Mapping[str, Any], path: str | Path) -> None:
    """Raises CheckpointError where a checkpoint is of another architecture or another kind of LoRA."""
    check_architecture(model, description, path)
    theirs, ours = description.get("lora"), model.backbone.lora
    if theirs != ours:
        raise CheckpointError(
            f"'{path}' was trained with lora={theirs or 'none'}, this run has {ours or 'none'}"
        )


def check_base(model: UFO, path: str | Path) -> None:
    """Raises CheckpointError where the `.ckpt` at `path` was trained on top of other frozen weights."""
    description, _ = read(path, complete=False)
    base, own = description.get("base"), model.backbone.base
    if base and (own is None or own["fingerprint"] != base["fingerprint"]):
        raise CheckpointError(
            f"'{path}' is for the base '{base['name']}' (fingerprint {base['fingerprint']}), and this run "
            f"has {own['name'] if own else 'random weights'}; set init={base['name']}"
        )
