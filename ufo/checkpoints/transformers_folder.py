"""Folders and hub names of transformers' models: their config, their weights, and what has to be downloaded.

No code of a folder is run: weights are safetensors, and the classes are those of the installed library.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from ufo.checkpoints import bounds
from ufo.checkpoints.errors import CheckpointError
from ufo.checkpoints.model_folder import first_line, twins
from ufo.hub import is_unreachable

REMOTE = "internvl_chat"  # model_type of InternVL with code of its own


def read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a folder; empty where there is none to read."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def is_model_folder(folder: Path) -> bool:
    """Whether a folder is one of this project, which may be one of transformers, too."""
    config = read_config(folder)
    return "ufo" in config or "backbone" in config


def load_native(kind: Any, folder: Path, name: str | Path) -> tuple[dict[str, Tensor], Any]:
    """Weights and config: transformers knows how the names of its checkpoints changed with its releases."""
    try:
        # the folder's own config may name kernels, code and other files
        config = kind.config_class.from_dict(bounds.without_reach(read_config(folder)))
        net, report = kind.from_pretrained(
            folder,
            config=config,
            attn_implementation="eager",
            dtype="auto",
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:
        raise CheckpointError(
            f"'{name}' cannot be read as a {kind.__name__} ({first_line(error)})"
        ) from error
    tied = twins(net)
    wrong = sorted({*report["missing_keys"], *map(str, report["mismatched_keys"])} - tied.keys())
    if wrong:
        raise CheckpointError(f"'{name}' is not a whole {kind.__name__}: it lacks {', '.join(wrong[:3])}")
    return {k: v for k, v in net.state_dict().items() if k not in tied}, net.config


def downloaded(name: str) -> Path:
    """Where a hub name that stands in a file was downloaded to: a file does not decide what is fetched."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except Exception as error:
        raise CheckpointError("it is not on this machine; download it first, or name it yourself") from error


def download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                name, allow_patterns=["*.safetensors", "*.json"], local_files_only=is_unreachable()
            )
        )
    except Exception as error:
        raise CheckpointError(
            f"'{name}' is not a folder and cannot be had from the hub ({type(error).__name__}); download it "
            "elsewhere and give its folder"
        ) from error
