"""Tensors of a checkpoint made elsewhere, however it is stored: one file, shards with an index, ZeRO folders.

Names stay those of the files, but for `module.` before all of them. Nothing that a file pickles is run, and
an index names files of its own folder only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ufo.checkpoints import safe_pickle, zero_folder
from ufo.checkpoints.errors import CheckpointError

PICKLED = (".pth", ".pt", ".bin")
_SAFE, _BIN = "model.safetensors", "pytorch_model.bin"
_INDEX = ".index.json"
_LONGEST = 64 * 2**20  # bytes of an index; those of 8-B models have 100 kB


def is_stored(path: Path) -> bool:
    """Whether `read_tensors` knows how to read what lies at `path`."""
    return (path.is_file() and path.suffix in (*PICKLED, ".safetensors")) or (
        path.is_dir() and (bool(_weight_file(path)) or zero_folder.find(path) is not None)
    )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors at `path`, a file or a folder.

    Raises CheckpointError that names the missing or damaged file.
    """
    if path.is_dir():
        return _read_folder(path)
    if path.suffix == ".safetensors":
        return _read_file(path)
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at '{path}'")
    return safe_pickle.state_dict(safe_pickle.read_pickle(path), path)


def _read_folder(folder: Path) -> dict[str, Tensor]:
    name = _weight_file(folder)
    if name is None:
        found = zero_folder.find(folder)
        if found is None:
            raise CheckpointError(
                f"'{folder}' has no weights: no {_SAFE}, no {_BIN}, no index of shards, no files of DeepSpeed"
            )
        return safe_pickle.state_dict(zero_folder.read(found), found)
    if not name.endswith(_INDEX):
        return _read_file(folder / name)
    listed = _index(folder / name)
    tensors: dict[str, Tensor] = {}
    for file in sorted(set(listed.values())):
        tensors |= _read_file(folder / file)
    absent = sorted(set(listed) - tensors.keys())
    if absent and not set(map(_without_module, listed)) <= tensors.keys():
        raise CheckpointError(
            f"'{folder}' lacks '{absent[0]}', which its {name} lists; copy the whole folder"
        )
    return tensors


def _without_module(name: str) -> str:
    return name.removeprefix("module.")


def _weight_file(folder: Path) -> str | None:
    """The file to begin with: an index before single files, safetensors before pickles."""
    for name in (_SAFE + _INDEX, _SAFE, _BIN + _INDEX, _BIN):
        if (folder / name).is_file():
            return name
    single = [p.name for p in sorted(folder.iterdir()) if p.is_file() and p.suffix == ".pth"]
    return single[0] if len(single) == 1 else None


def _index(path: Path) -> dict[str, str]:
    """Which file of the folder has which tensor."""
    try:
        if path.stat().st_size > _LONGEST:
            raise ValueError("it is too long for an index")
        listed: Any = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        listed = {str(name): str(file) for name, file in listed.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"'{path}' is not an index of shards ({type(error).__name__}); copy it again"
        ) from error
    strange = [file for file in listed.values() if Path(file).name != file]
    if strange:
        raise CheckpointError(f"'{path}' names a file outside of its folder: {strange[0]}")
    absent = sorted(file for file in set(listed.values()) if not (path.parent / file).is_file())
    if absent:
        raise CheckpointError(f"'{path.parent}' lacks the shard {absent[0]}; copy the whole folder")
    return listed


def _read_file(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".safetensors":
        return safe_pickle.state_dict(safe_pickle.read_pickle(path), path)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"'{path}' is damaged ({str(error)[:100]}); copy it again") from error
