"""A module refuses a model of another backbone."""

import re
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from commands import compose
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DeepSpeedStrategy
from recorders import Tapes
from torch.utils.data import DataLoader
from trainers import quiet_trainer

from ufo.build import build_module, build_trainer
from ufo.head.learning import learn
from ufo.modules.internvl import InternVLModule
from ufo.modules.recording import records
from ufo.modules.strategies import ENTRIES, FSDP
from ufo.modules.ufo_vit import UFOViTModule


def test_module__is_for_one_kind_of_backbone(make_model):
    model = make_model()
    assert UFOViTModule(model).model is model
    with pytest.raises(ValueError, match=r"trains InternVL, not UFOViT; .*=ufo\.modules\.base\.UFOModule"):
        InternVLModule(model)


def test_a_loaded_model_is_trained_in_train_mode(make_model):
    """Lightning leaves modules in the mode that they are in."""
    assert not UFOViTModule(make_model()).model.training
    assert build_module(compose("experiment=digits"), make_model()).model.training


def test_lightning_predicts(make_model, make_batch):
    batch = make_batch("detection")
    batch.sizes = [(10, 20), (30, 40)]
    loader = DataLoader([batch], batch_size=None)
    (found,) = quiet_trainer().predict(UFOViTModule(make_model()), loader)
    assert [prediction.task for prediction in found] == ["detection"] * 2


def test_loading_a_module_from_a_checkpoint_says_what_does():
    with pytest.raises(TypeError, match=r"ufo\.load\('some\.ckpt'\) makes its model"):
        UFOViTModule.load_from_checkpoint("some.ckpt")


def test_optimizer__keeps_plain_values(make_model):
    """They are saved with its state, and a checkpoint that names a class of omegaconf is not read."""
    cfg = compose("experiment=digits", "+optimizer.betas=[0.9,0.95]")
    (kept,) = build_module(cfg, make_model()).configure_optimizers()["optimizer"].param_groups[:1]
    assert type(build_module(cfg, make_model())._optimizer.keywords["betas"]) is list
    assert tuple(kept["betas"]) == (0.9, 0.95)


def test_whatever_a_module_calls_gathers_a_sharded_model_first():
    """`ENTRIES` of the strategies holds every method of `UFO` that runs the network in a module."""
    others = {"compile_backbone", "describe", "task", "record_passes"}  # they read no weight
    called = set()
    for path in (Path(__file__).parents[2] / "ufo" / "modules").glob("*.py"):
        called |= set(re.findall(r"self\.model\.(\w+)\(", path.read_text(encoding="utf-8")))
    assert called - others <= set(ENTRIES) and "training_pass" in called


@pytest.mark.parametrize("strategy", [FSDP, DeepSpeedStrategy])
def test_cuda_graphs__need_weights_that_stay(make_model, strategy):
    module = UFOViTModule(make_model(), cuda_graphs=True)
    module._trainer = SimpleNamespace(strategy=object.__new__(strategy))
    with (
        patch("ufo.modules.base.shard"),
        patch.object(UFOViTModule, "device_mesh", {"data_parallel": None}),
        pytest.raises(ValueError, match="leave it out, or use trainer=ddp"),
    ):
        module.configure_model()


@pytest.mark.parametrize("device, replays", [("cuda", True), ("cpu", False)])
def test_cuda_graphs__are_taken_by_themselves_where_weights_stay(make_model, device, replays):
    module = UFOViTModule(make_model(), cuda_graphs="auto")
    module._trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device)))
    module.configure_model()
    assert hasattr(module.model.backbone, "replay") == replays
    sharded = object.__new__(DeepSpeedStrategy)
    with patch.object(DeepSpeedStrategy, "root_device", torch.device(device)):
        assert not records("auto", sharded)


def test_cuda_graphs__are_not_taken_where_every_bit_has_to_be_the_same():
    strategy = SimpleNamespace(root_device=torch.device("cuda"))
    assert records("auto", strategy)
    with patch("torch.are_deterministic_algorithms_enabled", lambda: True):
        assert not records("auto", strategy)


def test_cuda_graphs__are_in_front_of_the_passes(make_model):
    module = UFOViTModule(make_model(), cuda_graphs="all")
    module._trainer = SimpleNamespace(strategy=None)
    found = []
    for _ in range(2):  # before training and before the last validation
        module.configure_model()
        found.append(module.model._learn)
    assert module.model.backbone.encode.__self__ is module.model.backbone.replay
    assert found[0] is found[1] and found[0] is not learn


@pytest.mark.parametrize("evaluates", [False, True])
def test_cuda_graphs__where_there_are_none_are_refused_as_by_predict(caplog, evaluates):
    cfg = compose("experiment=digits", "trainer.accelerator=cpu", "cuda_graphs=true")
    with pytest.raises(ValueError, match="cuda_graphs=true needs a CUDA device, not cpu; leave it out"):
        build_trainer(cfg, evaluates, callbacks=[], logger=False)
    cfg = compose("experiment=digits", "trainer.accelerator=cpu", "cuda_graphs=all")
    with pytest.raises(ValueError, match="cuda_graphs=all needs a CUDA device, not cpu; leave it out"):
        build_trainer(cfg, evaluates, callbacks=[], logger=False)
    for said in ("auto", "false"):
        cfg = compose("experiment=digits", "trainer.accelerator=cpu", f"cuda_graphs={said}")
        build_trainer(cfg, evaluates, callbacks=[], logger=False)
    assert "cuda_graphs" not in caplog.text


@pytest.mark.parametrize("other", ["compile=true", "backbone.network.gradient_checkpointing=2"])
def test_cuda_graphs__of_training_steps_do_not_go_with_all(other):
    cfg = compose("experiment=digits", "trainer.accelerator=cpu", "cuda_graphs=all", other)
    trainer = SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device("cuda")), precision_plugin=None
    )
    with (
        patch("ufo.build.instantiate", lambda *_, **__: trainer),
        pytest.raises(
            ValueError, match=f"cuda_graphs=all does not go with this {other.partition('=')[0]}; set "
        ),
    ):
        build_trainer(cfg, callbacks=[], logger=False)


def test_cuda_graphs__are_replayed_when_lightning_evaluates(make_model, make_batch):
    """It evaluates in inference mode, in which nothing is recorded; predictions leave it."""
    tapes = Tapes()
    module = UFOViTModule(make_model(), cuda_graphs=True)
    with patch("ufo.head.replay.CudaGraphs", lambda: tapes):
        batches = DataLoader([make_batch("detection")] * 4, batch_size=None)
        quiet_trainer().validate(module, batches, verbose=False)
    assert tapes.played > 0


@pytest.mark.parametrize("callbacks", [[], [ModelCheckpoint()]])
def test_checkpoints__are_written_by_the_callback_of_the_config_or_by_none(callbacks):
    cfg = compose("experiment=digits", "trainer.accelerator=cpu", "trainer.default_root_dir=.")
    trainer = build_trainer(cfg, callbacks=list(callbacks), logger=False)
    assert trainer.checkpoint_callbacks == callbacks
