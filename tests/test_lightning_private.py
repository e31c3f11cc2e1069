"""What a new Lightning or transformers may take away: every private part that is used still does its work.

A failure here says which reason in `ufo/lightning_private.py` or `ufo/transformers_private.py` to read again.
"""

from __future__ import annotations

import ast
import inspect
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DeepSpeedStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch import nn
from torch.utils.data import DataLoader
from trainers import quiet_trainer
from transformers import BertConfig, BertModel

from ufo.lightning_private import (
    HasWorkers,
    OpenCheckpoint,
    SizedModelParallel,
    counts,
    forget_steps,
    handlers_before,
    log_this_batch,
)
from ufo.transformers_private import from_config

ROOT = Path(__file__).parents[1]
PRIVATE_FILES = ("ufo/lightning_private.py", "ufo/transformers_private.py")


class One(L.LightningModule):
    """One weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def training_step(self, batch, batch_idx):
        self.log("loss", self.weight)
        return self.weight * batch.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Watch(L.Callback):
    """Calls `look(trainer)` in the hooks in which the project uses private parts."""

    def __init__(self, at: str, look) -> None:
        self.look = look
        setattr(self, at, self.called)

    def called(self, trainer: Any, *_: Any) -> None:
        self.look(trainer)


def fit(tmp_path: Path, *callbacks: L.Callback, loader: Any = None, steps: int = 3) -> L.Trainer:
    trainer = quiet_trainer(
        max_steps=steps,
        callbacks=list(callbacks),
        default_root_dir=tmp_path,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        log_every_n_steps=1,
    )
    trainer.fit(One(), loader or DataLoader(torch.ones(4, 1)))
    return trainer


@pytest.mark.filterwarnings("ignore")
class TestLightning:
    def test_handlers_from_before_the_training_are_known_in_its_first_hook(self, tmp_path):
        seen = {}
        before = signal.signal(signal.SIGUSR2, lambda *_: None)
        ours = signal.getsignal(signal.SIGUSR2)
        try:
            fit(tmp_path, Watch("on_train_start", lambda trainer: seen.update(handlers_before(trainer))))
        finally:
            signal.signal(signal.SIGUSR2, before)
        assert seen[signal.SIGUSR2] is ours

    def test_a_batch_can_be_logged_before_its_hook_is_over(self, tmp_path):
        found = []

        def look(trainer):
            log_this_batch(trainer)
            found.append(float(trainer.logged_metrics["loss"]))

        fit(tmp_path, Watch("on_train_batch_end", look))
        assert found == pytest.approx([1.0, 0.9, 0.8])

    def test_counters_have_the_four_numbers(self, tmp_path):
        trainer = fit(tmp_path)
        loop = trainer.fit_loop
        for progress in (loop.epoch_progress, loop.epoch_loop.batch_progress):
            for count in counts(progress):
                assert {"ready", "started", "processed", "completed"} <= vars(count).keys()
        assert counts(loop.epoch_loop.batch_progress)[0].processed == 3

    def test_steps_can_be_forgotten(self, tmp_path):
        trainer = fit(tmp_path)
        saved = trainer.fit_loop.epoch_loop.state_dict
        before = trainer.fit_loop.epoch_loop.on_save_checkpoint()["_batches_that_stepped"]
        assert before == 3 and callable(saved)
        forget_steps(trainer, all_of_them=False)
        assert trainer.fit_loop.epoch_loop.on_save_checkpoint()["_batches_that_stepped"] == 2
        forget_steps(trainer, all_of_them=True)
        assert trainer.fit_loop.epoch_loop.on_save_checkpoint()["_batches_that_stepped"] == 0

    def test_a_subclass_decides_about_last_and_older_checkpoints(self, tmp_path):
        asked = []

        class Mine(OpenCheckpoint):
            def write_last(self, trainer, monitor_candidates):
                asked.append(("last", Path(self.newest(trainer)).name))
                super().write_last(trainer, monitor_candidates)

            def may_remove(self, trainer, previous, current):
                asked.append((Path(previous).name, Path(current).name))
                return super().may_remove(trainer, previous, current)

        mine = Mine(tmp_path, "{step}", save_last=True, every_n_train_steps=1, save_top_k=1)
        fit(tmp_path, mine, steps=2)
        assert ("last", "step=2.ckpt") in asked and ("step=1.ckpt", "step=2.ckpt") in asked
        assert sorted(p.name for p in tmp_path.glob("*.ckpt")) == ["last.ckpt", "step=2.ckpt"]

    def test_workers_are_stopped_through_their_handle(self):
        class Loader(HasWorkers):
            def __init__(self) -> None:
                self.loader = DataLoader(torch.ones(4, 1))

            def __iter__(self):
                self.loader._iterator = SimpleNamespace(_shutdown_workers=lambda: None)
                return iter(self.loader)

        loader = Loader()
        combined = CombinedLoader(loader)
        iter(combined)
        assert loader._iterator is not None
        combined.reset()
        assert loader._iterator is None

    def test_the_number_of_parts_is_that_of_all_processes(self, monkeypatch):
        strategy = SizedModelParallel(tensor_parallel_size=1)
        monkeypatch.setattr(SizedModelParallel, "num_processes", 3, raising=False)
        strategy.cluster_environment = None
        monkeypatch.setattr(ModelParallelStrategy, "setup_environment", lambda self: None)
        strategy.num_nodes = 2
        strategy.setup_environment()
        assert strategy._data_parallel_size == 6
        source = inspect.getsource(ModelParallelStrategy)
        assert "self._data_parallel_size, self._tensor_parallel_size" in source

    def test_deepspeed_formats_its_config_in_one_method(self):
        assert list(inspect.signature(DeepSpeedStrategy._format_config).parameters) == ["self"]


def test_a_model_of_transformers_is_made_in_its_dtype():
    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    config.vocab_size = 11
    model = from_config(BertModel, config, torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_private_parts_are_used_nowhere_else():
    """No attribute with a leading underscore of a trainer, a loop or a connector outside of the two files."""
    owners = {"trainer", "loop", "strategy", "epoch_loop", "fit_loop", "model_class", "loader"}
    found = []
    for path in sorted((ROOT / "ufo").rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if name in PRIVATE_FILES:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and node.attr[1] != "_":
                owner = node.value
                last = getattr(owner, "attr", getattr(owner, "id", ""))
                if last in owners or last.endswith(("_connector", "_loop")):
                    found.append(f"{name}:{node.lineno} {last}.{node.attr}")
            library = str(getattr(node, "module", "")).split(".")[0]
            if isinstance(node, ast.ImportFrom) and library in ("lightning", "transformers"):
                found += [f"{name}:{node.lineno} {a.name}" for a in node.names if a.name.startswith("_")]
    assert not found
