"""FSDP and DeepSpeed train as DDP does, and leave checkpoints that know nothing of them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from commands import NETWORK, QUICK, SGD, TASKS, batches, compose, forked, metrics, resolution
from hydra.utils import instantiate
from lightning.pytorch import Callback
from lightning.pytorch.strategies import DDPStrategy
from safetensors.torch import load_file
from sharing import shared

from ufo.build import build_trainer
from ufo.cli.main import main
from ufo.modules import zero
from ufo.modules.strategies import FSDP, group_names
from ufo.modules.zero import DeepSpeed

needs_deepspeed = pytest.mark.skipif(not find_spec("deepspeed"), reason="pip install -e '.[deepspeed]'")
SHARDED = [
    "fsdp",
    pytest.param("deepspeed_stage2", marks=needs_deepspeed),
    pytest.param("deepspeed_stage3", marks=needs_deepspeed),
]
SMALL = [*NETWORK, *QUICK, *resolution(56, 56), "~callbacks.pictures", "logger=csv"]
# mask losses at every pixel: sampled points are those with the least certain logits, a rounding error could
# choose other ones; the difference would then be one of points and not of precision
EVERY_PIXEL = "mask_points=0"
FEW = "+trainer.limit_val_batches=1"
FOUR = ["trainer.max_steps=4", "trainer.val_check_interval=4"]
ALL = [*SMALL, *SGD, *batches(2, *TASKS), *FOUR, FEW, EVERY_PIXEL]


def finished(*arguments: str, out: Path, script: str = "train.py", processes: int = 1) -> str:
    if any("deepspeed" in a for a in arguments):
        import deepspeed  # noqa: F401  before the processes start
    done = forked(script, *arguments, out=out, processes=processes)
    assert done.codes == [0] * processes, done.text[-3000:]
    return done.text


def steps(count: int) -> list[str]:
    """Overrides of a run without validation."""
    return [f"trainer.max_steps={count}", "trainer.val_check_interval=1", "+trainer.limit_val_batches=0"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def error(one: Path, other: Path, start: Path) -> float:
    """The largest difference of two models' weights, as a part of the largest change since the start."""
    a, b, before = weights(one), weights(other), weights(start)
    assert a.keys() == b.keys() == before.keys()
    change = max(float((a[name] - before[name]).abs().max()) for name in a)
    assert change > 1e-3
    return max(float((a[name] - b[name]).abs().max()) for name in a) / change


@pytest.fixture(scope="module")
def start(scenes, tmp_path_factory) -> Path:
    """The weights that every run begins with."""
    still = ["optimizer.lr=1e-30", "schedule.min_lr=0", "trainer.max_steps=1", "trainer.val_check_interval=1"]
    settings = [*ALL, *scenes, *still, "trainer.limit_val_batches=0"]
    return shared(tmp_path_factory, "strategies_start", lambda out: finished(*settings, out=out))


@pytest.fixture(scope="module")
def ddp(scenes, tmp_path_factory) -> Path:
    settings = [*ALL, *scenes, "trainer=ddp"]
    return shared(tmp_path_factory, "strategies_ddp", lambda out: finished(*settings, out=out, processes=2))


@pytest.mark.slow
@pytest.mark.parametrize("trainer", SHARDED)
def test_training_and_validation_are_those_of_ddp(trainer, ddp, start, scenes, tmp_path, capsys):
    """All five tasks; then the checkpoint becomes one safetensors, and is evaluated as it was trained."""
    out = tmp_path / "run"
    finished(*ALL, *scenes, f"trainer={trainer}", out=out, processes=2)
    assert error(out, ddp, start) < 1e-3
    assert metrics(out) == pytest.approx(metrics(ddp), abs=1e-3)
    last = out / "checkpoints" / "last.ckpt"
    assert main(["convert", str(last), str(tmp_path / "whole")]) == 0
    whole, kept = load_file(tmp_path / "whole" / "model.safetensors"), weights(out)
    assert whole.keys() == kept.keys() and all(torch.equal(whole[name], kept[name]) for name in whole)
    evaluation = [f"ckpt={last}", *ALL, *scenes, f"trainer={trainer}"]
    finished(*evaluation, out=tmp_path / "evaluation", script="evaluate.py", processes=2)
    assert metrics(tmp_path / "evaluation") == pytest.approx(metrics(out), abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["ddp", "fsdp"])
def test_compiled_layers_change_nothing(trainer, ddp, start, scenes, tmp_path, monkeypatch):
    """All five tasks, in two processes; Python runs what was captured, which is what is tested here."""
    monkeypatch.setattr("ufo.backbones.layer_pass.BACKEND", "eager")
    out = tmp_path / "run"
    compiled = [f"trainer={trainer}", "compile=true", "trainer.limit_val_batches=0"]
    finished(*ALL, *scenes, *compiled, out=out, processes=2)
    assert error(out, ddp, start) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("trainer", SHARDED)
def test_bfloat16_rounds_and_nothing_else(trainer, ddp, start, scenes, tmp_path):
    """Sharded and in mixed precision: the weights stay float32 and go where DDP in float32 takes them."""
    out = tmp_path / "run"
    mixed = [f"trainer={trainer}", "trainer.precision=bf16-mixed", "trainer.limit_val_batches=0"]
    finished(*ALL, *scenes, *mixed, out=out, processes=2)
    assert {w.dtype for w in weights(out).values() if w.is_floating_point()} == {torch.float32}
    assert 1e-4 < error(out, ddp, start) < 0.1


def content(out: Path) -> dict:
    return torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)


def same_state(one: dict, other: dict) -> bool:
    """Whether two checkpoints hold the same weights and the same state of AdamW."""
    a, b = (c["optimizer_states"][0] for c in (one, other))
    assert [g["params"] for g in a["param_groups"]] == [g["params"] for g in b["param_groups"]]
    assert [g["lr"] for g in a["param_groups"]] == [g["lr"] for g in b["param_groups"]]
    assert a["state"].keys() == b["state"].keys() and len(a["state"]) > 40
    pairs = [(a["state"][i][k], b["state"][i][k]) for i in a["state"] for k in a["state"][i]]
    pairs += [(one["state_dict"][k], other["state_dict"][k]) for k in one["state_dict"]]
    return all(torch.equal(x, y) for x, y in pairs)


class NoStep(Callback):
    """Ends a training before its first step: its checkpoint is what was read, written again."""

    def on_train_start(self, trainer, pl_module):
        trainer.should_stop = True


@pytest.mark.slow
@pytest.mark.parametrize("trainer", SHARDED)
def test_a_run_goes_on_with_another_number_of_devices(trainer, scenes, tmp_path):
    """Two processes, then one, then two: nothing is lost on the way; and one takes the next step."""
    common, sharded = [*SMALL, *scenes], [f"trainer={trainer}", *batches(2, *TASKS)]
    finished(*common, *sharded, *steps(2), out=tmp_path / "a", processes=2)
    first = content(tmp_path / "a")
    moments = first["optimizer_states"][0]["state"][0]
    assert first["global_step"] == 2 and moments["exp_avg_sq"].abs().sum() > 0 and float(moments["step"]) == 2
    alone = [*common, *batches(4, *TASKS)]
    still = [*steps(3), "+callbacks.still._target_=test_strategies.NoStep"]
    finished(*alone, *still, f"resume={tmp_path / 'a'}", out=tmp_path / "b")
    assert same_state(first, content(tmp_path / "b"))
    finished(*common, *sharded, *still, f"resume={tmp_path / 'b'}", out=tmp_path / "c", processes=2)
    assert same_state(first, content(tmp_path / "c"))
    finished(*alone, *steps(3), f"resume={tmp_path / 'c'}", out=tmp_path / "d")
    last = content(tmp_path / "d")
    assert last["global_step"] == 3 and not same_state(first, last)


def test_group_names_follow_the_optimizer_and_not_the_model():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    groups = [{"params": [model[1].weight]}, {"params": [model[0].bias, model[1].bias]}]
    assert group_names(model, torch.optim.SGD(groups, lr=1)) == [["1.weight"], ["0.bias", "1.bias"]]


@pytest.mark.parametrize("trainer, trains", [("ddp", DDPStrategy), ("fsdp", FSDP)])
def test_a_strategy_evaluates_as_it_trains(trainer, trains):
    cfg = compose(f"trainer={trainer}", "trainer.accelerator=cpu", "trainer.devices=2")
    for evaluates in (False, True):
        made = build_trainer(cfg, evaluates, callbacks=[], logger=False)
        assert type(made.strategy) is trains
        assert made.strategy._timeout.total_seconds() == 1800


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_leaves_evaluation_to_ddp(stage, monkeypatch):
    """Also where it is not installed; a training then says what to do."""
    cfg = compose(f"trainer=deepspeed_stage{stage}", "trainer.accelerator=cpu", "trainer.devices=2")
    assert cfg.trainer.strategy.stage == stage
    monkeypatch.setattr(zero, "find_spec", lambda name: None)
    assert type(build_trainer(cfg, True, callbacks=[], logger=False).strategy) is DDPStrategy
    assert "DeepSpeed" in cfg.trainer.strategy._target_  # the config itself is not changed
    with pytest.raises(Exception, match=r"pip install -e '\.\[deepspeed\]'"):
        instantiate(cfg.trainer.strategy)


def test_other_stages_are_refused():
    with pytest.raises(ValueError, match="must be 2 or 3, not 1"):
        DeepSpeed(stage=1)
