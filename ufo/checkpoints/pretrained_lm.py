"""Starting weights and bases of language models: transformers' own checkpoints and the released ones.

`init=` and a LoRA's base may be a folder or hub name for the backbone's transformers class, InternVL2.5 in
the layout it was published in, or a released `.pth`. No code of a checkpoint is run.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ufo.backbones.base import Backbone
from ufo.backbones.lora import scale_of
from ufo.backbones.vocabulary import fit_vocabulary
from ufo.checkpoints.errors import CheckpointError
from ufo.checkpoints.mllm_base import with_base
from ufo.checkpoints.mllm_names import is_released_mllm
from ufo.checkpoints.mllm_weights import merge, read_released_mllm
from ufo.checkpoints.model_folder import NET
from ufo.checkpoints.stored_tensors import is_stored, read_tensors
from ufo.checkpoints.transformers_folder import REMOTE, download, load_native, read_config
from ufo.model import UFO
from ufo.tokenizer_files import has_token

log = logging.getLogger(__name__)

MASK_TOKEN = "<MASK>"
_HUB = re.compile(r"[\w.-]+/[\w.-]+")
# what the shapes of weights do not tell, but outputs depend on
_SILENT = {
    "text_config": ("num_attention_heads", "num_key_value_heads", "rms_norm_eps", "rope_parameters"),
    "vision_config": ("num_attention_heads", "layer_norm_eps", "hidden_act"),
}


@dataclass
class PretrainedWeights:
    """Weights of a transformers model by its own names; adapters of a LoRA as read_released_mllm has them."""

    weights: dict[str, Tensor]
    adapters: dict[str, Tensor] = field(default_factory=dict)
    scale: float = 1.0
    finished: bool = False  # a released UFO: rows of UFO's tokens and the final norm have learned already

    def merged(self) -> dict[str, Tensor]:
        """The weights with the adapters in them."""
        return merge(self.weights, self.adapters, self.scale) if self.adapters else self.weights


def recognises(backbone: Backbone, name: str | Path) -> bool:
    """Whether `name` is something `read` can read for this backbone."""
    path = Path(name)
    if not hasattr(backbone, "net"):
        return False
    if path.is_file():
        return is_stored(path)
    if path.is_dir():
        config = read_config(path)
        if "ufo" in config or "backbone" in config:  # a model folder of this project
            return False
        return "model_type" in config or is_stored(path)
    return bool(_HUB.fullmatch(str(name))) and not path.exists()


def read(backbone: Backbone, name: str | Path, base: str | Path | None = None) -> PretrainedWeights:
    """The pretrained weights called `name`, checked against the backbone's architecture.

    `base` is the model under a released LoRA whose file holds only what was trained.

    Raises CheckpointError: not to be had, damaged, of another family or of another architecture.
    """
    path = Path(name)
    if path.is_file() or (path.is_dir() and not read_config(path)):
        state = read_tensors(path)
        if not is_released_mllm(state):
            raise CheckpointError(
                f"'{path}' holds no InternVL and no LLaVA; choose the backbone= it was made for"
            )
        start = _released(backbone, with_base(state, name, base), name)
        start.finished = True
        return start
    folder = path if path.is_dir() else download(str(name))
    config = read_config(folder)
    if config.get("model_type") == REMOTE:
        start = _released(backbone, read_tensors(folder), name)
        # a merged UFO in this layout: a base knows no <MASK>
        start.finished = has_token(folder, MASK_TOKEN)
        return start
    _check_config(backbone, config, name)
    return PretrainedWeights(_from_pretrained(backbone, folder, name))


def _released(backbone: Backbone, state: Mapping[str, Tensor], name: str | Path) -> PretrainedWeights:
    ours = _values(backbone)
    # the vocabulary may still lack UFO's tokens
    ours["text_config"] = {k: v for k, v in ours["text_config"].items() if k != "vocab_size"}
    try:
        weights, adapters, description = read_released_mllm(state, ours)
    except ValueError as error:
        raise CheckpointError(f"'{name}': {error}") from error
    if description["family"] != ours["model_type"]:
        raise CheckpointError(
            f"'{name}' is a {description['family']}, not the {ours['model_type']} of this run; choose "
            "another backbone="
        )
    lora = description["lora"]
    return PretrainedWeights(weights, adapters, lora["scale"] if lora else 1.0)


def _network(backbone: Backbone) -> Any:
    """The transformers model of a backbone that `recognises` knows."""
    return backbone.net


def _from_pretrained(backbone: Backbone, folder: Path, name: str | Path) -> dict[str, Tensor]:
    return load_native(type(_network(backbone)), folder, name)[0]


# ---------------------------------------------------------------- architecture


def _values(backbone: Backbone) -> dict[str, Any]:
    """The backbone's native config as plain values."""
    return json.loads(_network(backbone).config.to_json_string(use_diff=False))


def _check_config(backbone: Backbone, config: Mapping[str, Any], name: str | Path) -> None:
    """Raises CheckpointError where a checkpoint's config promises other outputs than our network's."""
    ours = _values(backbone)
    if config.get("model_type") != ours["model_type"]:
        raise CheckpointError(
            f"'{name}' is a {config.get('model_type', 'model without a model_type')}, not the "
            f"{ours['model_type']} of this run; choose another backbone="
        )
    different = [
        f"{key}={config[part][key]} there, {ours[part].get(key)} here"
        for part, keys in _SILENT.items()
        for key in keys
        if key in config.get(part, {}) and config[part][key] != ours.get(part, {}).get(key)
    ]
    if different:
        raise CheckpointError(f"'{name}' is of another architecture: {'; '.join(different)}")


# ---------------------------------------------------------------- into a model


def for_model(model: UFO, start: PretrainedWeights, name: str | Path) -> tuple[dict[str, Tensor], list[str]]:
    """Weights under the names of `model.state_dict`, without adapters, and which of them are not the file's.

    Rows for UFO's own tokens are added: the mean of the older rows in the output head, an initial value in
    the input embedding.

    Raises CheckpointError where the tokenizer belongs to another vocabulary.
    """
    net, words = _network(model.backbone), model.tokenizer
    weights = {NET + key: value for key, value in start.weights.items()}
    changed: list[str] = []
    known = len(words) - words.appended
    for embedding, is_input in ((net.get_input_embeddings(), True), (net.get_output_embeddings(), False)):
        key = next((k for k, p in model.named_parameters() if p is embedding.weight), "")
        old = weights.get(key)
        if old is None or (len(old) == len(words) and (start.finished or not words.appended)):
            continue
        if len(old) < known and (words.appended or known - len(old) > len(words.added)):
            raise CheckpointError(
                f"'{name}' knows {len(old)} tokens and the tokenizer {known} besides UFO's own; give the "
                "tokenizer of these weights (backbone.tokenizer.name_or_path)"
            )
        fresh = embedding.weight.detach() if is_input else None
        weights[key] = fit_vocabulary(old, len(words), known, fresh)
        changed.append(key)
    return weights, changed


def fresh_norm(model: UFO, weights: dict[str, Tensor]) -> str:
    """Set the language model's final norm to ones in `weights`; returns its name."""
    [key] = [k for k in weights if k.endswith("language_model.norm.weight")]
    weights[key] = torch.ones_like(weights[key])
    return key


def adapters_for(model: UFO, start: PretrainedWeights, name: str | Path) -> dict[str, Tensor]:
    """The adapters of `start` under the names of `model.state_dict`.

    Raises CheckpointError where the model's adapters are of another kind.
    """
    ours = model.backbone.lora or {}
    factors = {NET + k.replace(".weight", ".default.weight"): v for k, v in start.adapters.items()}
    wanted = {k: v.shape for k, v in model.state_dict().items() if ".lora_" in k}
    if wanted != {k: v.shape for k, v in factors.items()} or scale_of(ours) != start.scale:
        raise CheckpointError(
            f"'{name}' holds a LoRA of another kind than lora= of this run; merge it first: "
            f"ufo convert {name} OUT, then init=OUT"
        )
    return factors
