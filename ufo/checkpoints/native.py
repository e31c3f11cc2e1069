"""The project's own checkpoints: a folder (config.json, vocab.txt, weights) or a Lightning `.ckpt`.

A checkpoint carries all that rebuilds its model; a published `.pth` is converted when it is read. Loading is
strict, executes nothing from the file, and prints one line: matched, missing, unexpected.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ufo.backbones import make_backbone
from ufo.checkpoints import published, sam
from ufo.checkpoints.errors import CheckpointError
from ufo.checkpoints.mmengine import read_pickle
from ufo.model import UFO
from ufo.tasks import make_task
from ufo.tokenizer import UFOTokenizer

log = logging.getLogger(__name__)

FORMAT = 1


__all__ = [
    "CheckpointError",
    "build",
    "check_resumable",
    "initialise",
    "load",
    "load_weights",
    "read",
    "save",
]


def load(path: str | Path, device: torch.device | str = "cpu") -> UFO:
    """The model of a checkpoint (folder, `.ckpt` or published `.pth`), ready to predict.

    Raises CheckpointError if the file is not a checkpoint of this project or does not match itself.
    """
    description, weights = read(path)
    model = build(description)
    load_weights(model, weights, path)
    return model.to(device).eval()


def read(path: str | Path, complete: bool = True) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A checkpoint's description (see `UFO.describe`) and its weights, unchecked.

    `path` is a model folder, a `.ckpt`, the folder of a run, or a published `.pth`. Unless `complete`, a
    published one is described by its backbone alone: its tasks and vocabulary are not looked up.
    """
    path = Path(path)
    last = path / "checkpoints" / "last.ckpt"  # a run's folder stands for its last checkpoint
    path = last if last.is_file() else path
    path = path if path.exists() or not _previous(path).is_dir() else _previous(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at '{path}'; give a model folder, a .ckpt or a .pth file")
    content = read_pickle(path)
    if content.keys() >= {"ufo", "state_dict"}:
        prefix, state = "model.", content["state_dict"]
        weights = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        return content["ufo"], weights
    found = published.recognise(content, path)
    return found.describe() if complete else {"backbone": found.backbone}, found.weights


def _read_folder(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    missing = [n for n in ("config.json", "vocab.txt", "model.safetensors") if not (path / n).is_file()]
    if missing:
        raise CheckpointError(f"'{path}' is no model folder: it lacks {', '.join(missing)}")
    try:
        description = json.loads((path / "config.json").read_text(encoding="utf-8"))
        weights = load_file(path / "model.safetensors")
    except (ValueError, SafetensorError) as error:
        raise CheckpointError(f"'{path}' is damaged ({_first_line(error)}); copy it again") from error
    description["vocab"] = (path / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1]
    return description, weights


def build(description: dict[str, Any]) -> UFO:
    """A model with random weights from its description."""
    return UFO(
        make_backbone(**description["backbone"]),
        # checkpoints of earlier versions all have the token
        UFOTokenizer(description["vocab"], mask_token=description.get("mask_token", True)),
        {name: make_task(name, **settings) for name, settings in description["tasks"].items()},
        classes=description["classes"],
        loss_weights=description["loss_weights"],
        mask_points=description["mask_points"],
    )


def load_weights(model: UFO, weights: dict[str, Tensor], origin: str | Path, assign: bool = False) -> None:
    """Copy weights into a model, or let it hold these tensors (`assign`); every name and shape must match.

    Raises CheckpointError that names what is missing, unexpected or of another shape.
    """
    wanted = model.state_dict()
    shared = wanted.keys() & weights.keys()
    fitting = {k for k in shared if wanted[k].shape == weights[k].shape}
    missing, unexpected = sorted(wanted.keys() - shared), sorted(weights.keys() - shared)
    reshaped = sorted(shared - fitting)
    line = (
        f"{origin}: {len(fitting)} weights matched, {len(missing)} missing, "
        f"{len(unexpected)} unexpected, {len(reshaped)} of another shape"
    )
    log.info(line)
    problems = [*(f"missing {k}" for k in missing), *(f"unexpected {k}" for k in unexpected)]
    problems += [f"{k}: {tuple(weights[k].shape)}, not {tuple(wanted[k].shape)}" for k in reshaped]
    if problems:
        shown = "; ".join(problems[:3]) + (" ..." if len(problems) > 3 else "")
        raise CheckpointError(f"these weights are of another model ({line}): {shown}")
    model.load_state_dict(weights, assign=assign)


def initialise(model: UFO, path: str | Path | Mapping[str, str | None]) -> None:
    """Start a model from the weights of a checkpoint of the same architecture, or from SAM's (`init=`).

    Args:
        model: with random weights.
        path: a checkpoint (see `read`), or starting weights (see `ufo.checkpoints.sam`): `sam`, the name or
            folder of a SAM, or `{sam: ..., bert: ...}`.

    Raises CheckpointError naming both architectures where they differ.
    """
    start = sam.source(path)
    if start:
        return sam.initialise(model, *start)
    description, weights = read(path, complete=False)
    # what a first stage taught; the layers on top start random
    encoder_only = description["backbone"].get("new_layers") == 0
    _check_architecture(model, description, path, {"new_layers", "mean_layers"} if encoder_only else set())
    if encoder_only:
        random = {k: v for k, v in model.state_dict().items() if k not in weights and ".layers." in k}
        log.info("%s: an encoder without new layers, %d weights stay random", path, len(random))
        weights = {**weights, **random}
    load_weights(model, weights, path)


def check_resumable(model: UFO, path: str | Path) -> None:
    """Raises CheckpointError unless the training of `model` can go on from the `.ckpt` at `path`."""
    if Path(path).is_dir() or Path(path).suffix == ".pth":
        raise CheckpointError(f"'{path}' holds weights, not the state of a training; use init={path}")
    description, _ = read(path, complete=False)
    try:
        _check_architecture(model, description, path)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}; this run would go on from there: take another name=..., or start afresh with "
            "resume=never"
        ) from error


def _check_architecture(
    model: UFO, description: dict[str, Any], path: str | Path, free: Set[str] = frozenset()
) -> None:
    """Raises CheckpointError naming both architectures where they differ, but for `free` settings."""
    theirs, ours = description["backbone"], model.describe()["backbone"]
    free = free | {"drop_path_rate", "text_dropout", "gradient_checkpointing", "query_update_at_global"}
    different = [
        f"{k}={theirs.get(k)} there, {ours.get(k)} here"
        for k in ours
        if k not in free and theirs.get(k) != ours.get(k)
    ]
    if different:
        raise CheckpointError(
            f"'{path}' holds a {theirs['type']}, not the {ours['type']} of this run: {'; '.join(different)}"
        )
    vocab = list(model.tokenizer.vocab)
    if description.get("vocab", vocab) != vocab:
        raise CheckpointError(f"'{path}' was trained with another vocabulary; use its vocab.txt")


def save(model: UFO, path: str | Path) -> Path:
    """Write a model folder, whole or not at all: a kill or a full disk leaves the previous one loadable.

    Raises CheckpointError if it cannot be written.
    """
    path = Path(path)
    try:
        _save(model, path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"the model could not be written to '{path}' ({_first_line(error)}); an older one there is kept"
        ) from error
    return path


def _save(model: UFO, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        description = {"format": FORMAT, **model.describe()}
        del description["vocab"]
        text = json.dumps(description, indent=1)
        (scratch / "config.json").write_text(text + "\n", encoding="utf-8")
        model.tokenizer.save(scratch)
        weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
        save_file(weights, scratch / "model.safetensors")
        (scratch / "model.safetensors").chmod(0o644)
        scratch.chmod(0o755)
        _replace(scratch, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _replace(new: Path, path: Path) -> None:
    """Put a finished folder in place of an older model folder."""
    old = _previous(path)
    if path.exists():
        if not (path / "config.json").is_file():
            raise CheckpointError(f"'{path}' exists and is no model folder; choose another name")
        shutil.rmtree(old, ignore_errors=True)
        os.rename(path, old)  # a kill after this line leaves `old`, where `read` finds it
        try:
            os.rename(new, path)
        except OSError:
            os.rename(old, path)
            raise
    else:
        os.rename(new, path)
    shutil.rmtree(old, ignore_errors=True)


def _previous(path: Path) -> Path:
    """Where a model folder is for the moment in which another one takes its place."""
    return path.with_name(f".{path.name}.old")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
