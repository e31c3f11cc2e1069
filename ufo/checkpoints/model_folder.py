"""A model folder on the disk: config.json, the tokenizer's file, weights (one file or shards, safetensors).

The folder of a language model without adapters is one of transformers as well: native names, its config.json
with ours under `ufo`. With adapters only what no other file holds is written.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ufo.backbones.lora import has_adapters, held_elsewhere
from ufo.checkpoints.bounds import check_length
from ufo.checkpoints.errors import CheckpointError
from ufo.files import replace_folder
from ufo.model import UFO
from ufo.ops.nearest import few
from ufo.sentencepiece_backend import PREFIX

FORMAT = 1
SHARD = "5GB"
NET = "backbone.net."  # where a transformers model is in ours
_ODD = (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError)  # of a strange file
_ONE, _INDEX = "model.safetensors", "model.safetensors.index.json"


# ---------------------------------------------------------------- reading


def read_folder(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The description (see `UFO.describe`) and the weights of a model folder.

    Raises CheckpointError that names the missing or damaged file.
    """
    words = "tokenizer.json" if (path / "tokenizer.json").is_file() else "vocab.txt"
    weights = _INDEX if (path / _INDEX).is_file() else _ONE
    missing = [n for n in ("config.json", words, weights) if not (path / n).is_file()]
    if missing and (path / "status.json").is_file():  # written by ufo.sweeps.record
        raise CheckpointError(f"the run '{path}' has no checkpoint; its status.json says what became of it")
    if missing and (inside := _inside(path)):
        others = f"; others are {few([str(other) for other in inside[1:]], 3)}" if inside[1:] else ""
        raise CheckpointError(
            f"'{path}' holds runs or model folders and is none itself; give one of them, as '{inside[0]}', "
            f"the newest{others}"
        )
    if missing:
        raise CheckpointError(f"'{path}' is not a model folder: it lacks {', '.join(missing)}")
    try:
        for name in ("config.json", words):
            check_length(path / name)
        description = json.loads((path / "config.json").read_text(encoding="utf-8"))
        both = "ufo" in description
        description = description["ufo"] if both else description
        if "backbone" not in description:
            raise CheckpointError(
                f"'{path}' is a model of transformers, not of this project; train from it with init={path}"
            )
        if not isinstance(description["backbone"], dict):
            raise ValueError("the backbone of config.json is not a set of settings")
        text = _read_words(path / words)
        found = _read_weights(path, weights)
    except CheckpointError:
        raise
    except (*_ODD, SafetensorError) as error:
        raise CheckpointError(f"'{path}' is damaged ({first_line(error)}); copy it again") from error
    if words == "vocab.txt":
        description["vocab"] = text.split("\n")[:-1]
    else:
        description["tokenizer"] = {**description.get("tokenizer", {}), "content": text}
    if both:
        found = {k if k.startswith("backbone.") else NET + k: v for k, v in found.items()}
    return description, found


def _inside(path: Path) -> list[Path]:
    """The runs and model folders in a folder, newest first."""
    found: dict[Path, float] = {}
    for folder in islice(path.iterdir(), 10_000):
        for file in (folder / "checkpoints" / "last.ckpt", folder / "config.json"):
            if not folder.name.startswith(".") and file.is_file():
                found.setdefault(folder, file.stat().st_mtime)
    return sorted(found, key=lambda folder: -found[folder])


def _read_words(path: Path) -> str:
    """The tokenizer's file; raises CheckpointError that names it if it was cut."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json" and not text.startswith(PREFIX):
            whole = isinstance(json.loads(text), dict)
        else:
            whole = text.endswith("\n") or path.suffix == ".json"
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"'{path}' cannot be read ({first_line(error)}); copy it again") from error
    if not whole:
        raise CheckpointError(f"'{path}' is cut: its end is missing; copy it again")
    return text


def _read_weights(path: Path, name: str) -> dict[str, Tensor]:
    if name == _ONE:
        return load_file(path / name)
    files = set(json.loads((path / name).read_text(encoding="utf-8"))["weight_map"].values())
    strange = [f for f in files if Path(f).name != f]
    if strange:
        raise ValueError(f"a shard outside the folder: {strange[0]}")
    absent = sorted(f for f in files if not (path / f).is_file())
    if absent:
        raise ValueError(f"it lacks {absent[0]}")
    return {k: v for file in sorted(files) for k, v in load_file(path / file).items()}


# ---------------------------------------------------------------- writing


def save(model: UFO, path: str | Path) -> Path:
    """Write a model folder, whole or not at all: a kill or a full disk leaves the previous one loadable.

    Raises CheckpointError if it cannot be written.
    """
    path = Path(path)
    try:
        _save(model, path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"the model could not be written to '{path}' ({first_line(error)}); an older one there is kept"
        ) from error
    return path


def _save(model: UFO, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        description = {"format": FORMAT, **model.describe()}
        # the vocabulary has a file of its own
        description.pop("vocab", None)
        description.get("tokenizer", {}).pop("content", None)
        state = weights_to_save(model, folder=True)
        net = model.backbone.transformers_model
        if net is not None and not has_adapters(model.backbone.lora):
            state = {name.removeprefix(NET): value for name, value in state.items()}
            description = {**_native_config(model, net), "ufo": description}
            _write_generation(model, net, scratch)
        _write_json(scratch / "config.json", description)
        model.tokenizer.save(scratch)
        _write_weights(state, scratch)
        scratch.chmod(0o755)
        _replace(scratch, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def weights_to_save(model: UFO, folder: bool = False) -> dict[str, Tensor]:
    """The weights of a model that no other file holds, by their names in `state_dict`.

    A base (see `ufo.backbones.lora`) holds what does not train. A model `folder` without adapters is complete
    all the same, as users copy it.
    """
    state = model.state_dict()
    state = {name: value for name, value in state.items() if name not in twins(model)}
    if folder and not has_adapters(model.backbone.lora):
        return state
    held = held_elsewhere(model.backbone, "backbone.")
    return {name: value for name, value in state.items() if name not in held}


def twins(model: nn.Module) -> dict[str, str]:
    """Names of parameters that are another one (tied embeddings) -> the name that stands for both."""
    first: dict[int, str] = {}
    second = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if first.setdefault(id(parameter), name) != name:
            second[name] = first[id(parameter)]
    return second


def _write_weights(state: Mapping[str, Tensor], folder: Path) -> None:
    """One file, or shards of at most 5 GB; only one of them is in memory a second time."""
    from huggingface_hub import split_torch_state_dict_into_shards

    split = split_torch_state_dict_into_shards(dict(state), max_shard_size=SHARD)
    for file, names in split.filename_to_tensors.items():
        part = {name: state[name].detach().cpu().contiguous() for name in names}
        save_file(part, folder / file, metadata={"format": "pt"})
        (folder / file).chmod(0o644)
    if split.is_sharded:
        _write_json(folder / _INDEX, {"metadata": split.metadata, "weight_map": split.tensor_to_filename})


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


# ---------------------------------------------------------------- for transformers


def _native_config(model: UFO, net: Any) -> dict[str, Any]:
    """The config.json that transformers' `from_pretrained` reads."""
    config = json.loads(net.config.to_json_string(use_diff=False))
    for key in ("image_token_id", "image_token_index"):
        if key in config:  # the tokenizer decides, wherever the config came from
            config[key] = model.tokenizer.token_id(model.backbone.patch_token)
    dtype = str(next(net.parameters()).dtype).removeprefix("torch.")
    return {**config, "architectures": [type(net).__name__], "dtype": dtype}


def _write_generation(model: UFO, net: nn.Module, folder: Path) -> None:
    """What `generate` and `AutoTokenizer` ask: the tokens that start, end and pad."""
    words: Any = model.tokenizer  # an HFTokenizer, which also knows the texts of these tokens
    tokens = {"bos_token_id": words.start_id, "eos_token_id": words.end_id, "pad_token_id": words.pad_id}
    _write_json(folder / "generation_config.json", {**tokens, "do_sample": False})
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": words.start,
            "eos_token": words.end,
            "pad_token": words.pad_token,
            "model_max_length": words.max_prompt_length,
            "clean_up_tokenization_spaces": False,
        },
    )


# ---------------------------------------------------------------- whole or not at all


def _replace(new: Path, path: Path) -> None:
    """Put a finished folder in place of an older model folder."""
    if path.exists() and not (path / "config.json").is_file():
        raise CheckpointError(f"'{path}' exists and is not a model folder; choose another name")
    replace_folder(new, path, aside=previous(path))  # where `read` finds it after a kill


def previous(path: Path) -> Path:
    """Where a model folder is for the moment in which another one takes its place."""
    return path.with_name(f".{path.name}.old")


def first_line(error: BaseException) -> str:
    """What an error says, short."""
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
