from __future__ import annotations

import os
import random
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from fakes import FakeData, noise, sources
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint, TQDMProgressBar

from ufo.data.module import UFODataModule
from ufo.data.source import Source
from ufo.types import Batch

pytestmark = pytest.mark.filterwarnings("ignore")


def content(batch: Batch) -> tuple:
    return batch.source, batch.seed, tuple(batch.images.flatten().tolist())


class Recorder(L.LightningModule):
    """Trains one weight and writes down everything that happens."""

    def __init__(self, fail_train: int | None = None, fail_val: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.events: list[tuple] = []
        self.fail_train, self.fail_val = fail_train, fail_val

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        if batch_idx == self.fail_train:
            raise KeyError("a batch fails")
        self.events.append(("train", batch_idx, content(batch)))
        return self.weight * batch.images.float().mean()

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        if sum(event[0] == "val" for event in self.events) == self.fail_val:
            raise KeyError("a validation fails")
        ids = tuple(target.id for target in batch.targets)
        self.events.append(("val", self.global_step, batch.source, ids))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


class KeptOnException(OnExceptionCheckpoint):
    def teardown(self, *args, **kwargs) -> None:
        """Keep the file (the parent deletes it)."""


def trainer(folder: Path, steps: int, accumulate: int = 1, **settings) -> L.Trainer:
    return L.Trainer(
        default_root_dir=folder,
        max_steps=steps,
        max_epochs=1,  # the progress bar's total is wrong without it, see UFODataModule
        val_check_interval=5,
        check_val_every_n_epoch=None,
        accumulate_grad_batches=accumulate,
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        **settings,
    )


def run(
    folder: Path,
    steps: int = 12,
    accumulate: int = 1,
    workers: int = 0,
    ckpt: Path | None = None,
    fails: dict | None = None,
    every: int | None = None,
) -> tuple[list[tuple], float, L.Trainer]:
    """Fit, from `ckpt` on if given, until the end or a failure: (events, weight, trainer)."""
    folder.mkdir(exist_ok=True)
    module, data = Recorder(**fails or {}), UFODataModule(sources(), seed=3, num_workers=workers)
    saved = ModelCheckpoint(folder, "{step}", every_n_train_steps=every, save_top_k=-1)
    t = trainer(folder, steps, accumulate, callbacks=[saved, KeptOnException(folder)])
    try:
        t.fit(module, data, ckpt_path=ckpt)
    except KeyError:
        assert fails
    return module.events, module.weight.item(), t


def check_end(resumed: tuple, straight: tuple) -> None:
    """The resumed run did exactly what the straight one did at its end."""
    assert len(resumed[0]) > 0
    assert resumed[0] == straight[0][-len(resumed[0]) :]
    assert resumed[1] == straight[1]
    loops = [t.fit_loop.epoch_loop for t in (resumed[2], straight[2])]
    assert loops[0].global_step == loops[1].global_step
    assert resumed[2].current_epoch == straight[2].current_epoch
    assert loops[0]._batches_that_stepped == loops[1]._batches_that_stepped
    assert loops[0].batch_progress.state_dict() == loops[1].batch_progress.state_dict()
    positions = [t.datamodule.position for t in (resumed[2], straight[2])]
    assert positions[0] == positions[1]


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_resumes_with_exactly_the_next_batch(tmp_path, accumulate):
    straight = run(tmp_path / "a", accumulate=accumulate, every=1)
    trained = [event for event in straight[0] if event[0] == "train"]
    assert len(trained) == len(set(trained)) == 12 * accumulate
    for step in (1, 5, 7, 10):  # 5 and 10: saved just before or after a validation
        resumed = run(tmp_path / "b", accumulate=accumulate, ckpt=tmp_path / f"a/step={step}.ckpt")
        check_end(resumed, straight)
        count = sum(event[0] == "train" for event in resumed[0])
        assert count == (12 - step) * accumulate


@pytest.mark.slow
def test_resumes_with_workers_and_equals_no_workers(tmp_path):
    straight = run(tmp_path / "a")
    parallel = run(tmp_path / "b", workers=2, every=7)
    assert parallel[0] == straight[0]
    check_end(run(tmp_path / "c", workers=2, ckpt=tmp_path / "b/step=7.ckpt"), straight)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("accumulate", "fails"),
    [
        (1, {"fail_train": 0}),
        (1, {"fail_train": 5}),  # right after a validation
        (1, {"fail_train": 7}),
        (1, {"fail_train": 11}),  # the last batch
        (2, {"fail_train": 1}),  # before the first optimizer step
        (2, {"fail_train": 9}),  # within an accumulation
        (1, {"fail_val": 0}),
        (1, {"fail_val": 5}),  # within the second validation
        (2, {"fail_val": 1}),  # within a validation within an accumulation
    ],
)
def test_resumes_after_an_exception(tmp_path, accumulate, fails):
    straight = run(tmp_path / "a", accumulate=accumulate)
    failed = run(tmp_path / "b", accumulate=accumulate, fails=fails)
    resumed = run(tmp_path / "c", accumulate=accumulate, every=10, ckpt=tmp_path / "b/on_exception.ckpt")
    check_end(resumed, straight)
    assert set(straight[0]) == set(failed[0]) | set(resumed[0])
    first = resumed[0][0]  # not in the middle of a validation
    assert first[0] == "train" or first[2:] == ("a/detection", (0, 1))
    if (tmp_path / "c/step=10.ckpt").exists():  # and once more: Lightning's counters are healed
        again = run(tmp_path / "d", accumulate=accumulate, ckpt=tmp_path / "c/step=10.ckpt")
        check_end(again, straight)


@pytest.mark.slow
@pytest.mark.parametrize("saved", ["in the last batch", "after the last validation", "at the end"])
def test_a_finished_run_can_be_extended(tmp_path, saved):
    straight = run(tmp_path / "a", steps=15)
    _, _, t = run(tmp_path / "b", steps=10, every=10 if saved == "in the last batch" else None)
    checkpoint = tmp_path / "b/step=10.ckpt"
    if saved == "at the end":
        t.save_checkpoint(checkpoint)
    check_end(run(tmp_path / "c", steps=15, ckpt=checkpoint), straight)


def test_length_counts_batches_of_the_whole_run(tmp_path):
    _, _, t = run(tmp_path, steps=4, accumulate=3)
    assert t.num_training_batches == 12
    assert TQDMProgressBar.total_train_batches.fget(SimpleNamespace(trainer=t)) == 12
    data = UFODataModule(sources(), max_steps=7)
    assert len(data.train_dataloader()) == 7
    with pytest.raises(TypeError):
        len(UFODataModule(sources()).train_dataloader())


def test_a_second_fit_goes_on_and_another_trainer_begins_anew(tmp_path):
    straight, _, _ = run(tmp_path, steps=8)
    module, data = Recorder(), UFODataModule(sources(), seed=3)
    t = trainer(tmp_path, 4, enable_checkpointing=False)
    t.fit(module, data)
    t.fit_loop.epoch_loop.max_steps, t.fit_loop.max_epochs = 8, 2
    t.fit(module, data)
    batches = [event[2] for event in module.events if event[0] == "train"]
    assert batches == [event[2] for event in straight if event[0] == "train"]
    trainer(tmp_path, 4, enable_checkpointing=False).fit(module, data)
    assert [e[2] for e in module.events if e[0] == "train"][8:] == batches[:4]


def test_another_trainer_begins_anew_after_a_resumed_one(tmp_path):
    straight, _, _ = run(tmp_path, steps=4, every=4)
    module, data = Recorder(), UFODataModule(sources(), seed=3)
    trainer(tmp_path, 6, enable_checkpointing=False).fit(module, data, ckpt_path=tmp_path / "step=4.ckpt")
    module.events.clear()
    trainer(tmp_path, 4, enable_checkpointing=False).fit(module, data)
    assert [e[2] for e in module.events if e[0] == "train"] == [e[2] for e in straight if e[0] == "train"]


def test_a_training_that_nothing_would_end_is_refused(tmp_path):
    module, data = Recorder(), UFODataModule(sources(), seed=3)
    settings = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    settings |= {"accelerator": "cpu", "enable_checkpointing": False, "default_root_dir": tmp_path}
    for epochs in (2, None):
        with pytest.raises(ValueError, match=r"epochs never end, .*; give the Trainer max_steps="):
            L.Trainer(max_epochs=epochs, **settings).fit(module, data)
    L.Trainer(max_epochs=2, limit_train_batches=3, limit_val_batches=0, **settings).fit(module, data)
    batches = [event[2] for event in module.events if event[0] == "train"]
    assert len(batches) == 6 and batches[:3] != batches[3:]


def test_a_data_module_is_shown_by_its_sources():
    data = UFODataModule(sources(), seed=3)
    data.setup("fit")
    names = [source.name for source in data.sources]
    assert str(data) == repr(data) == f"UFODataModule({', '.join(names)})"


def test_evaluating_a_checkpoint_does_not_move_a_later_fit(tmp_path):
    run(tmp_path, steps=3, every=3)
    data = UFODataModule(sources(), seed=3)
    trainer(tmp_path, 3).validate(Recorder(), data, tmp_path / "step=3.ckpt", verbose=False)
    assert data.position == 0
    assert data.state_dict() == {}


def test_evaluation_covers_every_sample_of_every_source_in_order():
    data = UFODataModule(sources())
    loaders = data.val_dataloader()
    ids = [[(b.source, t.id) for b in loader for t in b.targets] for loader in loaders]
    assert ids == [
        [("a/detection", i) for i in range(5)],
        [("b/caption", i) for i in range(3)],
    ]
    first = next(iter(loaders[1]))
    assert (first.task, first.classes) == ("caption", ("one", "two"))
    assert first.texts == ["text 0", "text 1", "text 2"]


def corrupt_source() -> Source:
    data = FakeData(6, corrupt=(1, 4))
    return Source("c/caption", "caption", lambda: data, lambda: data, noise, batch_size=2)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_corrupt_samples_are_skipped_in_training_and_scored_in_evaluation(workers, caplog):
    data = UFODataModule([corrupt_source()], num_workers=workers, max_steps=12)
    values = {v for b in data.train_dataloader() for v in b.images[:, 0, 0, 0].tolist()}
    assert values == {0, 2, 3, 5}
    batches = list(data.val_dataloader()[0])
    assert [t.id for b in batches for t in b.targets] == list(range(6))
    assert torch.cat([b.images for b in batches])[[1, 4]].sum() == 0
    source = data.sources[0]  # counted here, also by workers
    assert source.problems("train") == source.problems("val") == (2, 0)
    data.teardown("fit")
    assert "c/caption: 2 val samples were unusable" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_loading_leaves_global_random_states_alone(workers):
    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    before = states()
    data = UFODataModule(sources(), num_workers=workers, max_steps=5)
    first = [content(b) for b in data.train_dataloader()]
    assert [len(list(loader)) for loader in data.val_dataloader()] == [3, 1]
    assert states() == before
    torch.manual_seed(99)
    assert [content(b) for b in data.train_dataloader()] == first


@pytest.mark.slow
def test_targets_of_a_whole_evaluation_can_be_kept():
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 100
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 100, limits[1]))
    try:
        source = Source("x/caption", "caption", None, lambda: FakeData(200), val_batch_size=4)
        loader = UFODataModule([source], num_workers=2).val_dataloader()[0]
        kept = [target for batch in loader for target in batch.targets]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert [int(target.boxes[0, 0]) for target in kept] == list(range(200))


def test_overfitting_repeats_the_same_batches(tmp_path):
    module = Recorder()
    t = trainer(tmp_path, 6, overfit_batches=2, enable_checkpointing=False)
    t.fit_loop.max_epochs = 3
    t.fit(module, UFODataModule(sources()))
    batches = [event[2] for event in module.events if event[0] == "train"]
    assert batches == batches[:2] * 3


def test_says_what_is_wrong_with_a_mixture():
    with pytest.raises(ValueError, match="no sources"):
        UFODataModule({})
    with pytest.raises(ValueError, match="no sources"):
        UFODataModule({"left out": None})
    off = Source("x/caption", "caption", lambda: FakeData(3), weight=0)
    with pytest.raises(ValueError, match="All weights"):
        UFODataModule({"x": off})
    wrong = Source("x/grounding", "grounding", lambda: FakeData(3))
    with pytest.raises(ValueError, match="the task 'grounding' needs expression"):
        UFODataModule([wrong]).setup("fit")


def test_a_source_of_weight_zero_is_evaluated_but_not_built_for_training():
    built = []
    off = Source("x/caption", "caption", lambda: built.append(1), lambda: FakeData(3), weight=0)
    data = UFODataModule([*sources(), off], max_steps=30)
    data.setup("fit")
    assert {b.source for b in data.train_dataloader()} == {"a/detection", "b/caption"}
    assert not built
    assert len(data.val_dataloader()) == 3


class RankRecorder(Recorder):
    def on_fit_end(self) -> None:
        folder = self.trainer.default_root_dir
        torch.save(self.events, f"{folder}/rank{self.global_rank}.pt")


@pytest.mark.slow
def test_two_processes_share_the_work(tmp_path):
    module, data = RankRecorder(), UFODataModule(sources(), seed=3)
    t = trainer(tmp_path, 10, strategy="ddp_fork", devices=2, enable_checkpointing=False)
    t.fit(module, data)
    ranks = [torch.load(tmp_path / f"rank{r}.pt") for r in (0, 1)]
    double = [s for s in sources() if setattr(s, "batch_size", 2 * s.batch_size) is None]
    single = Recorder()
    whole = trainer(tmp_path, 10, enable_checkpointing=False)
    whole.fit(single, UFODataModule(double, seed=3))
    batches = [[e[2] for e in events if e[0] == "train"] for events in (*ranks, single.events)]
    for left, right, both in zip(*batches, strict=True):
        assert left[0] == right[0] == both[0]
        pixels = [torch.tensor(x[2]).view(-1, 3, 8, 8) for x in (left, right, both)]
        assert torch.equal(torch.stack(pixels[:2], 1).flatten(0, 1), pixels[2])
    for source, size in (("a/detection", 5), ("b/caption", 3)):
        ids = [{i for e in r if e[0] == "val" and e[2] == source for i in e[3]} for r in ranks]
        assert ids[0] | ids[1] == set(range(size))
        assert len(ids[0] & ids[1]) <= 1  # padding
