"""Weights are the same however they are stored: one file, shards, DeepSpeed's parts."""

from __future__ import annotations

import json
import sys
import types
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ufo.checkpoints.errors import CheckpointError
from ufo.checkpoints.stored_tensors import is_stored, read_tensors

SHAPES = {"a.weight": (3, 5), "b.weight": (7,), "c.weight": (2, 2, 2), "d.bias": (1,)}
GROUPS = (("a.weight", "b.weight"), ("c.weight", "d.bias"))
SCALER = "deepspeed.runtime.fp16.loss_scaler"


@pytest.fixture
def weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


# ---------------------------------------------------------------- files and shards


def shards(folder: Path, weights: dict[str, Tensor], save: Callable, stem: str, suffix: str) -> Path:
    """Two shards and their index."""
    folder.mkdir()
    listed = {}
    for i, names in enumerate((("a.weight", "c.weight"), ("b.weight", "d.bias")), start=1):
        file = f"{stem}-0000{i}-of-00002{suffix}"
        save({name: weights[name] for name in names}, folder / file)
        listed |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": 0}, "weight_map": listed}
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps(index))
    return folder


def written(kind: str, folder: Path, weights: dict[str, Tensor]) -> Path:
    (folder / "run").mkdir()
    file = (
        folder / "run" / {"pth": "x.pth", "in a run": "iter_3.pth", "bin": "pytorch_model.bin"}.get(kind, "x")
    )
    if kind in ("pth", "in a run", "bin"):
        torch.save(weights, file)
        return file if kind == "pth" else file.parent
    if kind == "wrapped":
        torch.save({"meta": {"iter": 3}, "state_dict": weights}, file.with_suffix(".pth"))
        return file.with_suffix(".pth")
    if kind == "safetensors":
        save_file(weights, file.with_suffix(".safetensors"))
        return file.with_suffix(".safetensors")
    if kind == "shards of safetensors":
        return shards(folder / "sharded", weights, save_file, "model", ".safetensors")
    return shards(folder / "sharded", weights, torch.save, "pytorch_model", ".bin")


SHARDED = ("shards of safetensors", "shards of bin")
KINDS = ("pth", "wrapped", "in a run", "bin", "safetensors", *SHARDED)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_holds_the_same(kind, weights, tmp_path):
    path = written(kind, tmp_path, weights)
    assert is_stored(path) and same(read_tensors(path), weights)


@pytest.mark.parametrize("kind", SHARDED)
def test_a_missing_shard_is_named(kind, weights, tmp_path):
    folder = written(kind, tmp_path, weights)
    gone = next(p for p in folder.iterdir() if "00002-of" in p.name)
    gone.unlink()
    with pytest.raises(CheckpointError, match=f"lacks the shard {gone.name}"):
        read_tensors(folder)


def test_an_index_that_lists_more_than_its_shards(weights, tmp_path):
    folder = written("shards of safetensors", tmp_path, weights)
    index = next(folder.glob("*.index.json"))
    content = json.loads(index.read_text())
    content["weight_map"]["e.weight"] = content["weight_map"]["a.weight"]
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"lacks 'e\.weight'"):
        read_tensors(folder)


@pytest.mark.parametrize("place", ["../secret.safetensors", "/etc/passwd", "sub/x.safetensors"])
def test_an_index_names_files_of_its_folder_only(place, weights, tmp_path):
    folder = written("shards of safetensors", tmp_path, weights)
    index = next(folder.glob("*.index.json"))
    index.write_text(json.dumps({"weight_map": {"a.weight": place}}))
    with pytest.raises(CheckpointError, match="outside of its folder"):
        read_tensors(folder)


@pytest.mark.parametrize("content", ["[", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": null}}'])
def test_an_index_that_is_none(content, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError):
        read_tensors(tmp_path)


def test_a_folder_without_weights(tmp_path):
    assert not is_stored(tmp_path)
    with pytest.raises(CheckpointError, match="has no weights"):
        read_tensors(tmp_path)


# ---------------------------------------------------------------- DeepSpeed


@pytest.fixture
def scaler(monkeypatch):
    """An object of DeepSpeed's that lies beside the weights; its module is gone when the file is read."""
    module = types.ModuleType(SCALER)
    module.LossScaler = type("LossScaler", (), {"__module__": SCALER, "cur_scale": 1.0})
    parts = SCALER.split(".")
    for i in range(1, len(parts)):
        monkeypatch.setitem(sys.modules, ".".join(parts[:i]), types.ModuleType(parts[0]))
    monkeypatch.setitem(sys.modules, SCALER, module)
    return module.LossScaler()


def padded(value: Tensor, unit: int) -> Tensor:
    flat = value.flatten()
    return torch.cat([flat, torch.full((-len(flat) % unit,), 9.0)])


def parts_of(weights: dict[str, Tensor], stage: int, ranks: int, names: list[str]) -> list[Tensor]:
    """Each process's part of a group of weights, cut as the stage cuts it."""
    if stage < 3:
        whole = padded(torch.cat([weights[n].flatten() for n in names]), 2 * ranks)
        return [part.clone() for part in whole.chunk(ranks)]
    pieces = [padded(weights[n], ranks).chunk(ranks) for n in names]
    return [torch.cat([piece[rank] for piece in pieces]) for rank in range(ranks)]


def write_zero(folder: Path, weights, stage: int, ranks: int, scaler=None, frozen=(), optimizer=True) -> Path:
    """An own writer of DeepSpeed's files."""
    folder.mkdir(parents=True)
    groups = [[n for n in group if n not in frozen] for group in GROUPS]
    parts = [parts_of(weights, stage, ranks, names) for names in groups]
    key = "single_partition_of_fp32_groups" if stage < 3 else "fp32_flat_groups"
    for rank in range(ranks):
        state = {"zero_stage": stage, "partition_count": [ranks] * 2, "loss_scaler": scaler}
        state[key] = [group[rank] for group in parts]
        if optimizer:
            name = f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
            torch.save({"optimizer_state_dict": state, "ds_version": "0.15.4"}, folder / name)
        if stage < 3 and rank:
            continue
        kept = {n: weights[n] if stage < 3 else padded(weights[n], ranks).chunk(ranks)[rank] for n in frozen}
        model = {
            "module": {n: v.bfloat16() if stage < 3 else torch.empty(0) for n, v in weights.items()},
            "param_shapes": [OrderedDict((n, weights[n].shape) for n in group) for group in groups],
            "buffer_names": [],
            "frozen_param_shapes": {n: weights[n].shape for n in frozen},
            "frozen_param_fragments": {n: v.clone() for n, v in kept.items()},
            "shared_params": {},
            "dp_world_size": ranks,
        }
        before = "" if stage < 3 else f"zero_pp_rank_{rank}_"
        torch.save(model, folder / f"{before}mp_rank_00_model_states.pt")
    return folder


@pytest.mark.parametrize("frozen", [(), ("b.weight",)])
@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_parts_of_all_stages_make_the_weights(stage, ranks, frozen, weights, scaler, tmp_path, monkeypatch):
    folder = write_zero(tmp_path / "iter_5.pth", weights, stage, ranks, scaler, frozen)
    monkeypatch.undo()
    assert is_stored(folder) and same(read_tensors(folder), weights)
    # the folder of the run, which names the last checkpoint in `latest`
    (tmp_path / "latest").write_text("iter_5.pth\n")
    assert same(read_tensors(tmp_path), weights)


def test_without_the_optimizer_the_rounded_weights_are_taken(weights, tmp_path):
    folder = write_zero(tmp_path / "x", weights, 2, 2, optimizer=False)
    assert same(read_tensors(folder), {n: v.bfloat16() for n, v in weights.items()})


def test_zero_3_without_the_optimizer_is_refused(weights, tmp_path):
    folder = write_zero(tmp_path / "x", weights, 3, 2, optimizer=False)
    with pytest.raises(CheckpointError, match="no optim_states"):
        read_tensors(folder)


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("gone", [0, 1, 2])
def test_a_missing_part_is_named(stage, gone, weights, tmp_path):
    folder = write_zero(tmp_path / "x", weights, stage, 3)
    (folder / f"bf16_zero_pp_rank_{gone}_mp_rank_00_optim_states.pt").unlink()
    with pytest.raises(CheckpointError, match="copy the whole folder"):
        read_tensors(folder)


def test_parts_that_are_too_short(weights, tmp_path):
    folder = write_zero(tmp_path / "x", weights, 2, 1)
    path = next(folder.glob("*optim*"))
    content = torch.load(path, weights_only=True)
    content["optimizer_state_dict"]["single_partition_of_fp32_groups"][1] = torch.zeros(3)
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"cut short at c\.weight"):
        read_tensors(folder)


def test_code_in_a_part_is_not_run(weights, tmp_path):
    class Bad:
        def __reduce__(self):
            return (print, ("run!",))

    folder = write_zero(tmp_path / "x", weights, 2, 1)
    torch.save({"optimizer_state_dict": {"x": Bad()}}, next(folder.glob("*optim*")))
    with pytest.raises(CheckpointError, match="nothing was run"):
        read_tensors(folder)
