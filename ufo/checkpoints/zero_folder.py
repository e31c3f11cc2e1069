"""Weights out of the folder that DeepSpeed writes instead of a file: ZeRO stages 1, 2 and 3.

Each process wrote its part of the float32 weights, flat, beside a file that lists names and shapes. Stages 1
and 2 cut a group of weights into equal parts, stage 3 cuts every weight. Nothing pickled is run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import ceil, prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ufo.checkpoints.errors import CheckpointError
from ufo.checkpoints.safe_pickle import read_pickle

_MODEL = re.compile(r"(?:zero_pp_rank_(\d+)_)?mp_rank_00_model_states\.pt")
_OPTIMIZER = re.compile(r"(?:bf16_)?zero_pp_rank_(\d+)_mp_rank_00_optim_states\.pt")
_WHOLE, _PARTS = "single_partition_of_fp32_groups", "fp32_flat_groups"  # stages 1 and 2; stage 3


def find(folder: Path) -> Path | None:
    """The folder with DeepSpeed's files: this one, or the one that its `latest` names; None without any."""
    candidates = [folder]
    latest = folder / "latest"
    if latest.is_file():
        name = latest.read_text(encoding="utf-8", errors="replace").strip()[:256]
        if name and Path(name).name == name:
            candidates.append(folder / name)
    for candidate in candidates:
        if candidate.is_dir() and any(_MODEL.fullmatch(path.name) for path in candidate.iterdir()):
            return candidate
    return None


def read(folder: Path) -> dict[str, Tensor]:
    """All weights by name: float32 where the optimizer's files are there, else as the model's file has them.

    Raises CheckpointError where a part is missing or does not fit.
    """
    models, parts = _ranked(folder, _MODEL), _ranked(folder, _OPTIMIZER)
    first = read_pickle(models[0])
    if len(models) == 1 and not parts:
        return _tensors(_mapping(first, "module", models[0]))
    states = [_mapping(read_pickle(path), "optimizer_state_dict", path) for path in parts]
    if not states:
        raise CheckpointError(
            f"'{folder}' has {len(models)} model_states files and no optim_states files, which hold the "
            "weights of ZeRO 3; copy the whole folder"
        )
    _check_number(folder, states, first)
    shapes = _shapes(first, models[0])
    if _WHOLE in states[0]:
        found = _join_groups([s[_WHOLE] for s in states], shapes, folder)
    elif _PARTS in states[0]:
        found = _join_weights([s[_PARTS] for s in states], shapes, folder)
    else:
        raise CheckpointError(
            f"'{folder}': the optim_states files hold no float32 weights; copy the folder again"
        )
    return found | _not_trained(first, models, folder)


def _ranked(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    """The files of a pattern, in the order of the processes; CheckpointError where one is missing."""
    found = {int(m[1] or 0): p for p in folder.iterdir() if (m := pattern.fullmatch(p.name))}
    absent = [rank for rank in range(len(found)) if rank not in found]
    if absent:
        raise CheckpointError(f"'{folder}' lacks the file of process {absent[0]}; copy the whole folder")
    return [found[rank] for rank in sorted(found)]


def _check_number(folder: Path, states: Sequence[Mapping[str, Any]], first: Mapping[str, Any]) -> None:
    """Raises CheckpointError where there are not as many parts as processes wrote."""
    count = states[0].get("partition_count", first.get("dp_world_size", len(states)))
    count = max(count) if isinstance(count, list | tuple) else count
    if isinstance(count, int) and count != len(states):
        raise CheckpointError(
            f"'{folder}' has {len(states)} optim_states files of {count} processes; copy the whole folder"
        )


def _mapping(content: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    value = content.get(key)
    if not isinstance(value, Mapping):
        raise CheckpointError(f"'{path}' is not a file of DeepSpeed: it has no '{key}'")
    return value


def _shapes(model: Mapping[str, Any], path: Path) -> list[dict[str, tuple[int, ...]]]:
    """Names and shapes of the trained weights, one dict per group of the optimizer."""
    groups = model.get("param_shapes")
    if not isinstance(groups, list) or not all(isinstance(g, Mapping) for g in groups):
        raise CheckpointError(f"'{path}' does not say which weights it holds ('param_shapes')")
    return [{str(name): tuple(int(n) for n in shape) for name, shape in group.items()} for group in groups]


def _join_groups(
    parts: Sequence[Sequence[Tensor]], shapes: Sequence[Mapping[str, tuple[int, ...]]], folder: Path
) -> dict[str, Tensor]:
    """Stages 1 and 2: the parts of a group, one after the other, are its weights and some padding."""
    found: dict[str, Tensor] = {}
    for i, group in enumerate(shapes):
        try:
            flat = torch.cat([part[i].flatten() for part in parts])
        except (IndexError, TypeError, AttributeError) as error:
            raise CheckpointError(f"'{folder}' lacks parts of group {i}; copy the whole folder") from error
        at = 0
        for name, shape in group.items():
            size = prod(shape)
            if at + size > len(flat):
                raise CheckpointError(f"'{folder}' is cut short at {name}; copy the whole folder")
            found[name], at = flat[at : at + size].view(shape), at + size
    return found


def _join_weights(
    parts: Sequence[Sequence[Tensor]], shapes: Sequence[Mapping[str, tuple[int, ...]]], folder: Path
) -> dict[str, Tensor]:
    """Stage 3: each process holds an equal part of every weight, the last ones padded."""
    flats = [torch.cat([group.flatten() for group in part]) for part in parts]
    found, at = {}, 0
    for group in shapes:
        for name, shape in group.items():
            size = prod(shape)
            own = ceil(size / len(flats))
            if any(at + own > len(flat) for flat in flats):
                raise CheckpointError(f"'{folder}' is cut short at {name}; copy the whole folder")
            whole = torch.cat([flat[at : at + own] for flat in flats])
            found[name], at = whole[:size].view(shape), at + own
    return found


def _not_trained(first: Mapping[str, Any], models: Sequence[Path], folder: Path) -> dict[str, Tensor]:
    """Buffers, frozen weights, and second names of shared ones."""
    module = first.get("module") or {}
    found = {name: module[name] for name in first.get("buffer_names") or () if name in module}
    frozen = first.get("frozen_param_shapes") or {}
    fragments = [first.get("frozen_param_fragments") or {}]
    if frozen and len(models) > 1:
        fragments += [read_pickle(path).get("frozen_param_fragments") or {} for path in models[1:]]
    for name, shape in frozen.items():
        flat = torch.cat([part[name].flatten() for part in fragments if name in part])
        if len(flat) < prod(shape):
            raise CheckpointError(
                f"'{folder}' lacks parts of the frozen weight {name}; copy the whole folder"
            )
        found[str(name)] = flat[: prod(shape)].view(tuple(shape))
    return _tensors(found)


def _tensors(values: Mapping[str, Any]) -> dict[str, Tensor]:
    return {str(name): value for name, value in values.items() if isinstance(value, Tensor)}
