"""The checkpoints of a run, newest first, and what is wrong with a damaged one.

A full disk, a kill, or a copy cut short leave half a file; other programs leave files that only have the
name. Nothing is executed from a file, and weights are mapped, not read, but for the checksums of small files.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ufo.checkpoints.errors import CheckpointError
from ufo.checkpoints.model_folder import first_line, twins
from ufo.checkpoints.references import check_references

SUMMED = 2 << 30  # bytes up to which every checksum of a file is compared: some seconds
PARTS: dict[str, type] = {
    "state_dict": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
    "loops": dict,
    "callbacks": dict,
    "ufo": dict,
    "global_step": int,
    "epoch": int,
}
"""What a checkpoint holds from which a training can go on."""
_OF_A_WEIGHT = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer")  # states of a weight's shape


class Damaged(CheckpointError):
    """A checkpoint from which no training can go on; an older one may do."""


def newest_first(folder: Path) -> list[Path]:
    """The checkpoints in `folder`; a second name of one counts as another."""
    # the latest, not the one with the most steps: a run may have been started afresh in this folder
    return sorted(folder.glob("*.ckpt"), key=_changed, reverse=True)


def last_good(folder: Path) -> Path | None:
    """The newest whole checkpoint in `folder`; None if there is none."""
    for path in newest_first(folder):
        try:
            contents(path)
        except Damaged:
            continue
        return path
    return None


def contents(path: Path) -> dict[str, Any]:
    """A whole checkpoint, its tensors mapped from the file. Raises Damaged with the reason."""
    try:
        with zipfile.ZipFile(path) as archive:  # the directory is at the end: a cut file has none
            bad = archive.testzip() if path.stat().st_size <= SUMMED else None
        if bad:
            raise Damaged(f"its part {bad} does not have the checksum it was written with")
        check_references(path, zipped=True)
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Damaged:
        raise
    except (zipfile.BadZipFile, EOFError) as error:
        raise Damaged(f"it was cut short, or is not a checkpoint ({first_line(error)})") from error
    except pickle.UnpicklingError as error:
        raise Damaged("it is not a checkpoint, or holds code; nothing was run") from error
    except OSError as error:
        raise Damaged(f"it cannot be read: {first_line(error)}") from error
    except Exception as error:  # a strange file may fail in any way
        raise Damaged(f"it is not a checkpoint: {first_line(error)}") from error
    _check_parts(content)
    _check_optimizer(content["optimizer_states"], content["state_dict"])
    return content


def _check_parts(content: Any) -> None:
    if not isinstance(content, dict):
        raise Damaged(f"it holds a {type(content).__name__}, not the state of a training")
    for name, kind in PARTS.items():
        if name not in content:
            raise Damaged(f"it lacks {name}")
        if not isinstance(content[name], kind):
            raise Damaged(f"its {name} is a {type(content[name]).__name__}")
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content["state_dict"].items()):
        raise Damaged("its state_dict holds something that is not a tensor")
    if not content["state_dict"]:
        raise Damaged("its state_dict is empty")
    for name in ("backbone", "tasks", "classes"):
        if not isinstance(content["ufo"].get(name), dict):
            raise Damaged(f"its description has no {name}")


def _check_optimizer(states: list[Any], weights: Mapping[str, Tensor]) -> None:
    """The optimizer's state agrees with itself and with the weights beside it."""
    if not states:
        raise Damaged("its optimizer_states are empty")
    shapes = {tuple(weight.shape) for weight in weights.values()}
    for state in states:
        try:
            known = [i for group in state["param_groups"] for i in group["params"]]
            entries = dict(state["state"].items())
            rates = [float(group["lr"]) for group in state["param_groups"]]
            values = [(k, v) for entry in entries.values() for k, v in entry.items()]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise Damaged(f"its optimizer's state cannot be read: {type(error).__name__} {error}") from error
        if not known or not rates or set(entries) - set(known):
            raise Damaged("its optimizer's state is of weights that it does not name")
        for key, value in values:
            if key in _OF_A_WEIGHT and value is not None:
                if not isinstance(value, Tensor) or tuple(value.shape) not in shapes:
                    raise Damaged(f"its optimizer's {key} has the shape of no weight")
                if not bool(value.isfinite().all()):
                    raise Damaged(f"its optimizer's {key} is not finite")


def check_fits(content: Mapping[str, Any], module: nn.Module) -> None:
    """Raises Damaged where a checkpoint of this very run does not hold this module's weights or optimizer."""
    weights, own = content["state_dict"], module.state_dict()
    held = {k for k, p in module.named_parameters() if not p.requires_grad} | twins(module).keys()
    missing = sorted(own.keys() - held - weights.keys())
    if missing:
        raise Damaged(f"its state_dict lacks {missing[0]}")
    if extra := sorted(weights.keys() - own.keys()):
        raise Damaged(f"its state_dict has {extra[0]}, which this model does not have")
    for name, weight in weights.items():
        if weight.shape != own[name].shape:
            raise Damaged(f"its {name} is {tuple(weight.shape)}, not {tuple(own[name].shape)}")
    configure: Any = module.configure_optimizers
    optimizer = configure()
    optimizer = optimizer["optimizer"] if isinstance(optimizer, dict) else optimizer
    state = content["optimizer_states"][0]
    sizes = [len(group["params"]) for group in state["param_groups"]]
    if optimizer is None or sizes != [len(group["params"]) for group in optimizer.param_groups]:
        raise Damaged("its optimizer's state is of other weights")
    numbers = [i for group in state["param_groups"] for i in group["params"]]
    ours = [p for group in optimizer.param_groups for p in group["params"]]
    for number, weight in zip(numbers, ours, strict=True):
        for key, value in state["state"].get(number, {}).items():
            if key in _OF_A_WEIGHT and value is not None and value.shape != weight.shape:
                raise Damaged(f"its optimizer's {key} is {tuple(value.shape)}, not {tuple(weight.shape)}")


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # a link to a file that is gone
        return 0.0
