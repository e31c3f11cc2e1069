"""The newest whole checkpoint is found, and a damaged one says what is wrong with it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from ufo.checkpoints.latest import Damaged, check_fits, contents, last_good


class Module(torch.nn.Module):
    """What `check_fits` needs of a LightningModule."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.1)


def state(step: int = 1, **changes: Any) -> dict[str, Any]:
    """The state of a training after one optimizer step."""
    module = Module()
    optimizer = module.configure_optimizers()
    module.second(module.first(torch.ones(1, 3))).sum().backward()
    optimizer.step()
    with torch.no_grad():
        module.second.bias.fill_(7.0)
    whole = {
        "state_dict": module.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [],
        "loops": {},
        "callbacks": {},
        "ufo": {"backbone": {}, "tasks": {}, "classes": {}},
        "global_step": step,
        "epoch": 0,
    }
    return {k: v for k, v in {**whole, **changes}.items() if v is not None}


def saved(path: Path, step: int, **changes: Any) -> Path:
    torch.save(state(step, **changes), path)
    return path


def test_a_whole_one_is_whole_and_fits(tmp_path):
    content = contents(saved(tmp_path / "last.ckpt", 4))
    assert content["global_step"] == 4
    check_fits(content, Module())


@pytest.mark.parametrize(
    "damage", ["cut", "empty", "text", "other", "tensor", "list", "folder", "link", "flipped"]
)
def test_the_last_good_one_is_found(damage, tmp_path):
    good, bad = saved(tmp_path / "step_4.ckpt", 4), saved(tmp_path / "last.ckpt", 6)
    whole = bad.read_bytes()
    bad.unlink()
    if damage == "folder":
        bad.mkdir()
    elif damage == "link":
        bad.symlink_to(tmp_path / "gone")
    elif damage in ("other", "tensor", "list"):
        torch.save({"other": {"w": torch.ones(1)}, "tensor": torch.zeros(3), "list": [1]}[damage], bad)
    elif damage == "flipped":  # one byte of a weight
        place = whole.index(torch.full((2,), 7.0).numpy().tobytes())
        bad.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
    else:
        bad.write_bytes({"cut": whole[: len(whole) * 9 // 10], "empty": b"", "text": b"no zip"}[damage])
    if damage != "link":
        os.utime(bad, (time.time() + 9, time.time() + 9))
    assert last_good(tmp_path) == good


def test_the_newest_counts_and_not_the_one_with_most_steps(tmp_path):
    """A run was started afresh in the folder of a longer one."""
    saved(tmp_path / "step_90.ckpt", 90)
    new = saved(tmp_path / "step_5.ckpt", 5)
    os.utime(tmp_path / "step_90.ckpt", (1, 1))
    assert last_good(tmp_path) == new
    assert last_good(tmp_path / "nothing") is None


def test_nothing_in_a_checkpoint_is_executed(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    torch.save(state(trap=Trap()), tmp_path / "last.ckpt")
    assert last_good(tmp_path) is None and not (tmp_path / "executed").exists()


def optimizer(**changes: Any) -> list[dict[str, Any]]:
    return [{**state()["optimizer_states"][0], **changes}]


def moments(value: torch.Tensor) -> list[dict[str, Any]]:
    """An optimizer's state whose first moment is another one."""
    (found,) = optimizer()
    found["state"][0]["exp_avg"] = value
    return [found]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optimizer_states": None}, "lacks optimizer_states"),
        ({"optimizer_states": []}, "optimizer_states are empty"),
        ({"optimizer_states": [1]}, "cannot be read"),
        ({"optimizer_states": {"state": {}}}, "is a dict"),
        ({"optimizer_states": optimizer(param_groups=[])}, "weights that it does not name"),
        ({"optimizer_states": optimizer(state=[1])}, "cannot be read"),
        ({"optimizer_states": moments(torch.zeros(9))}, "shape of no weight"),
        ({"optimizer_states": moments(torch.full((4, 3), torch.nan))}, "not finite"),
        ({"state_dict": [1]}, "state_dict is a list"),
        ({"state_dict": {"w": 1}}, "not a tensor"),
        ({"state_dict": {}}, "empty"),
        ({"loops": None}, "lacks loops"),
        ({"global_step": "4"}, "global_step is a str"),
        ({"ufo": {"backbone": 1}}, "no backbone"),
    ],
)
def test_a_damaged_one_says_what_is_wrong(changes, said, tmp_path):
    with pytest.raises(Damaged, match=said):
        contents(saved(tmp_path / "last.ckpt", 1, **changes))


def test_a_state_of_other_weights_does_not_fit(tmp_path):
    content = state()
    weights = content["state_dict"]
    for name, changed in (
        ("lacks second.bias", {k: v for k, v in weights.items() if k != "second.bias"}),
        ("has third", {**weights, "third": torch.ones(1)}),
        ("second.bias is", {**weights, "second.bias": torch.ones(5)}),
    ):
        with pytest.raises(Damaged, match=name):
            check_fits({**content, "state_dict": changed}, Module())
    fewer = optimizer(param_groups=[{"lr": 0.1, "params": [0, 1]}])
    with pytest.raises(Damaged, match="of other weights"):
        check_fits({**content, "optimizer_states": fewer}, Module())
    with pytest.raises(Damaged, match="exp_avg is"):  # another weight's shape
        check_fits({**content, "optimizer_states": moments(torch.zeros(2))}, Module())


def test_references_that_multiply_are_refused_at_once(tmp_path):
    value: list = ["a"]
    for _ in range(5):
        value = [value] * 500
    torch.save(state(callbacks={"x": value}), tmp_path / "x.ckpt")
    start = time.process_time()
    with pytest.raises(Damaged, match="nested"):
        contents(tmp_path / "x.ckpt")
    assert time.process_time() - start < 1
