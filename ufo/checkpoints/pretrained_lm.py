"""Starting weights and bases of language models: transformers' own checkpoints and the released ones.

`init=` and a LoRA's base may be a folder or hub name for the backbone's transformers class, InternVL2.5 in
the layout it was published in, or a released `.pth`. No code of a checkpoint is run.
"""

from __future__ import annotations

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
from ufo.backbones.transformers_net import image_token
from ufo.backbones.vocabulary import fit_vocabulary
from ufo.checkpoints.errors import CheckpointError
from ufo.checkpoints.mllm_base import with_base
from ufo.checkpoints.mllm_names import is_released_mllm
from ufo.checkpoints.mllm_weights import merge, read_released_mllm
from ufo.checkpoints.model_folder import NET
from ufo.checkpoints.native_config import check_config, values
from ufo.checkpoints.stored_tensors import is_stored, read_tensors
from ufo.checkpoints.transformers_folder import REMOTE, download, is_model_folder, load_native, read_config
from ufo.model import UFO
from ufo.tokenizer_files import has_token

log = logging.getLogger(__name__)

MASK_TOKEN = "<MASK>"
_HUB = re.compile(r"[\w.-]+/[\w.-]+")
# tokens that a published tokenizer has and its model has no row for, `<video>` for example
_WITHOUT_ROW = 16


@dataclass
class PretrainedWeights:
    """Weights of a transformers model by its own names; adapters of a LoRA as read_released_mllm has them."""

    weights: dict[str, Tensor]
    adapters: dict[str, Tensor] = field(default_factory=dict)
    scale: float = 1.0
    finished: bool = False  # a released UFO: rows of UFO's tokens and the final norm have learned already
    image_token: int | None = None  # the id of the image's token, where a config tells it

    def merged(self) -> dict[str, Tensor]:
        """The weights with the adapters in them."""
        return merge(self.weights, self.adapters, self.scale) if self.adapters else self.weights


def recognises(backbone: Backbone, name: str | Path) -> bool:
    """Whether `name` is something `read` can read for this backbone."""
    path = Path(name)
    if backbone.transformers_model is None:
        return False
    if path.is_file():
        return is_stored(path)
    if path.is_dir():
        return not is_model_folder(path) and ("model_type" in read_config(path) or is_stored(path))
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
        _check_remote(config, name)
        start = _released(backbone, read_tensors(folder), name)
        # a merged UFO in this layout: a base knows no <MASK>
        start.finished = has_token(folder, MASK_TOKEN)
        return start
    check_config(_network(backbone), config, name)
    weights = _from_pretrained(backbone, folder, name)
    return PretrainedWeights(weights, image_token=image_token(config))


def _check_remote(config: Mapping[str, Any], name: str | Path) -> None:
    """Raises CheckpointError for an InternVL in its authors' layout that was never a UFO."""
    inner = config.get("llm_config")
    kind = inner.get("model_type") if isinstance(inner, Mapping) else None
    if kind in ("qwen2", "qwen3"):
        raise CheckpointError(
            f"'{name}' is an InternVL with a {kind} in the layout of its authors; take the same model in the "
            "layout of transformers, whose name ends with -hf or -HF"
        )


def _released(backbone: Backbone, state: Mapping[str, Tensor], name: str | Path) -> PretrainedWeights:
    ours = values(_network(backbone).config)
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
    return backbone.transformers_model


def _from_pretrained(backbone: Backbone, folder: Path, name: str | Path) -> dict[str, Tensor]:
    return load_native(type(_network(backbone)), folder, name)[0]


# ---------------------------------------------------------------- into a model


def for_model(model: UFO, start: PretrainedWeights, name: str | Path) -> tuple[dict[str, Tensor], list[str]]:
    """Weights under the names of `model.state_dict`, without adapters, and which of them are not the file's.

    Rows for UFO's own tokens are added: the mean of the older rows in the output head, an initial value in
    the input embedding.

    Raises CheckpointError where the tokenizer belongs to another vocabulary.
    """
    net = _network(model.backbone)
    words: Any = model.tokenizer  # an HFTokenizer
    weights = {NET + key: value for key, value in _tied_alike(net, start.weights, name).items()}
    changed: list[str] = []
    known = len(words) - words.appended
    lacks = 0 if words.appended else len(words.added)
    if start.image_token == model.backbone.patch_id:  # the tokenizer of these weights
        lacks = max(lacks, min(known - words.pieces, _WITHOUT_ROW))
    for embedding, is_input in ((net.get_input_embeddings(), True), (net.get_output_embeddings(), False)):
        key = next((k for k, p in model.named_parameters() if p is embedding.weight), "")
        old = weights.get(key)
        if old is None or (len(old) == len(words) and (start.finished or not words.appended)):
            continue
        if len(old) < known - lacks:
            raise CheckpointError(
                f"'{name}' knows {len(old)} tokens and the tokenizer {known} besides UFO's own; give the "
                "tokenizer of these weights (backbone.tokenizer.name_or_path)"
            )
        fresh = embedding.weight.detach() if is_input else None
        weights[key] = fit_vocabulary(old, len(words), known, fresh)
        changed.append(key)
    return weights, changed


def _tied_alike(net: Any, weights: Mapping[str, Tensor], name: str | Path) -> dict[str, Tensor]:
    """Weights with an output head of its own where the network has one: a copy, if the file's is shared.

    Raises CheckpointError where the network shares a head that is another matrix in the file.
    """
    inner, outer = net.get_input_embeddings().weight, net.get_output_embeddings().weight
    names = [n for n, p in net.named_parameters(remove_duplicate=False) if p is inner or p is outer]
    found = {n: weights[n] for n in names if n in weights}
    if inner is not outer and len(found) == 1:
        [one] = found.values()
        return {**weights, **{n: one.clone() for n in names}}
    if inner is outer and len(found) == 2 and not torch.equal(*found.values()):
        raise CheckpointError(
            f"'{name}' has an output head of its own; set ++backbone.network.config.tie_word_embeddings=false"
        )
    return dict(weights)


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
