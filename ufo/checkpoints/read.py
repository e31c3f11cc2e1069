"""Checkpoints read and checked: description and weights of any file, the model that a description builds.

Nothing of a file is executed, and every name and shape must match.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ufo import extensions, places
from ufo.backbones import make_backbone
from ufo.backbones.lora import apply_lora
from ufo.checkpoints import bounds, released
from ufo.checkpoints.bare import refuse_alone, refuse_bare
from ufo.checkpoints.errors import CheckpointError
from ufo.checkpoints.model_folder import previous, read_folder, twins
from ufo.checkpoints.released_checkpoint import ReleasedCheckpoint
from ufo.checkpoints.safe_pickle import read_pickle
from ufo.hf_tokenizer import HFTokenizer
from ufo.model import UFO
from ufo.ops.nearest import beside
from ufo.tasks import make_task
from ufo.tokenizer import Tokenizer, UFOTokenizer

log = logging.getLogger(__name__)


def read(
    path: str | Path,
    complete: bool = True,
    base: str | Path | None = None,
    overrides: Sequence[str] = (),
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A checkpoint's description (see `UFO.describe`) and its weights, unchecked.

    Args:
        path: a model folder, a `.ckpt`, the folder of a run, or a released file or folder.
        complete: otherwise a released one is described by its backbone alone, without tasks and vocabulary.
        base: the model under a released LoRA whose file holds only what was trained.
        overrides: of the config that describes a released one, as `experiment=NAME`; default: what its
            name tells.
    """
    path = place_of(path)
    if released.is_released(path):
        return _described(released.open_released(path, base), complete, overrides)
    if path.is_dir():
        description, weights = read_folder(path)
        bounds.check_description(description, path)
        return description, weights
    if path.suffix == ".safetensors":
        refuse_alone(path)
        return _described(released.open_released(path, base), complete, overrides)
    content = read_pickle(path)
    if content.keys() >= {"ufo", "state_dict"}:
        prefix, state = "model.", content["state_dict"]
        is_state = isinstance(state, dict) and all(isinstance(k, str) for k in state)
        if not is_state or not all(isinstance(v, Tensor) for v in state.values()):
            raise CheckpointError(f"'{path}' is damaged: its state_dict holds something else than tensors")
        if not isinstance(content["ufo"], dict) or not isinstance(content["ufo"].get("backbone"), dict):
            raise CheckpointError(f"'{path}' is damaged: it does not describe its backbone")
        weights = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        bounds.check_description(content["ufo"], path)
        return content["ufo"], weights
    refuse_bare(content, path)
    return _described(released.recognise(content, path, base), complete, overrides)


def place_of(path: str | Path) -> Path:
    """The file or folder that a path stands for: of a run its last checkpoint, of a shipped model its folder.

    Raises CheckpointError if there is none.
    """
    path = places.shipped(path) or Path(path)
    last = path / "checkpoints" / "last.ckpt"
    path = last if last.is_file() else path
    path = path if path.exists() or not previous(path).is_dir() else previous(path)
    if not path.is_dir() and not path.is_file():
        raise CheckpointError(
            f"no checkpoint at '{path}'; give a model folder, a run, a .ckpt or a .pth file{beside(path)}"
        )
    return path


def _described(
    found: ReleasedCheckpoint, complete: bool, overrides: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    description = found.describe(overrides=overrides) if complete else {"backbone": found.backbone}
    return description, found.weights


def build(description: dict[str, Any]) -> UFO:
    """A model with random weights from its description."""
    tokenizer = stored_tokenizer(description)
    if tokenizer is None:
        raise ValueError("it has no vocabulary")
    rows = description["backbone"].get("vocab_size", len(tokenizer))
    if isinstance(tokenizer, UFOTokenizer) and len(tokenizer) != rows:
        raise ValueError(
            f"its vocab.txt has {len(tokenizer)} tokens and its config.json says {rows}: one of the two is "
            "cut or of another model"
        )
    model = UFO(
        make_backbone(**description["backbone"]),
        tokenizer,
        {name: make_task(name, **settings) for name, settings in description["tasks"].items()},
        classes=description["classes"],
        loss_weights=description["loss_weights"],
        mask_points=description["mask_points"],
    )
    if description.get("lora"):
        apply_lora(model.backbone, description["lora"])
    model.backbone.base = description.get("base")
    return model


def stored_tokenizer(description: Mapping[str, Any]) -> Tokenizer | None:
    """The tokenizer that a description holds; None for that of a released file's backbone alone."""
    if "tokenizer" in description:
        return HFTokenizer.from_content(**description["tokenizer"])
    if "vocab" not in description:
        return None
    # checkpoints of earlier versions all have the token
    return UFOTokenizer(description["vocab"], mask_token=description.get("mask_token", True))


def build_for(description: dict[str, Any], path: str | Path) -> UFO:
    """`build`; CheckpointError where the description of the checkpoint at `path` fits no model."""
    bounds.check_description(description, path)
    try:
        return build(description)
    except CheckpointError:
        raise
    except Exception as error:  # whatever a foreign description makes a constructor do is about the file
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        reason += _missing_packages(description)
        raise CheckpointError(f"'{path}' describes no model that can be built: {reason}") from error


def _missing_packages(description: Mapping[str, Any]) -> str:
    """What to do where a model is made of packages that nobody has named; their code is not looked for."""
    packages = description.get("packages")
    named = (
        [p for p in packages if isinstance(p, str) and p.isidentifier()] if isinstance(packages, list) else []
    )
    unknown = [p[:60] for p in named if not extensions.owns(p) and p not in sys.modules]
    return (
        f"; it was trained with the package '{unknown[0]}': {extensions.hint(unknown[0])}" if unknown else ""
    )


@contextmanager
def no_values() -> Iterator[None]:
    """Parameters made inside take no memory; buffers, which no file holds, are made as usual."""
    module_class: Any = nn.Module  # its method is exchanged for a while
    register = module_class.register_parameter

    def register_empty(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:  # a tied one stays the same object
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
        register(module, name, parameter)

    module_class.register_parameter = register_empty
    try:
        yield
    finally:
        module_class.register_parameter = register


def load_weights(model: UFO, weights: dict[str, Tensor], origin: str | Path, assign: bool = False) -> None:
    """Copy weights into a model, or let it hold these tensors (`assign`); every name and shape must match.

    Raises CheckpointError that names what is missing, unexpected or of another shape.
    """
    tied = twins(model)
    wanted = {k: v for k, v in model.state_dict().items() if k not in tied}
    weights = {k: v for k, v in weights.items() if k not in tied}
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
    if assign:
        weights = {k: v.to(wanted[k].dtype) for k, v in weights.items()}
    model.load_state_dict(weights | {k: weights[first] for k, first in tied.items()}, assign=assign)
    for name, first in tied.items() if assign else ():
        module, _, last = name.rpartition(".")
        setattr(model.get_submodule(module), last, model.get_parameter(first))


def check_architecture(
    model: UFO, description: Mapping[str, Any], path: str | Path, free: Set[str] = frozenset()
) -> None:
    """Raises CheckpointError naming both architectures where they differ, but for `free` settings."""
    theirs = _flat(description["backbone"])
    ours = _flat({"type": type(model.backbone).__name__, **model.backbone.config})
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
    stored = stored_tokenizer(description)
    there = vocab if stored is None else list(stored.vocab)
    if there != vocab and "vocab_size" not in free:
        raise CheckpointError(
            f"'{path}' was trained with another vocabulary of {len(there)} tokens, not {len(vocab)}; use the "
            "vocabulary that is stored with it"
        )


def _flat(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested settings with dotted names: `config.text_config.hidden_size`."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": value}
    return flat
