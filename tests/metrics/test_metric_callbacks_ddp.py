"""Two processes that hold different numbers of images, and repeats, give one process's numbers."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp
from lightning.pytorch import Callback
from metric_examples import METRICS, Replay, batch_of, example, metric_for
from torch.utils.data import DataLoader, DistributedSampler
from trainers import quiet_trainer

from ufo.tasks import task_names

NOISE = 0.3
# ids per process: 3 and 2 images, 3 and none, repeats on both sides as a padded sampler makes them
SPLITS = ([[0, 2, 4], [1, 3]], [[0, 1, 2], []], [[0, 2, 4, 0], [1, 3, 0, 0]])
pytestmark = pytest.mark.slow


def collect(ids: list[int]) -> dict:
    callbacks = {task: metric_for(task) for task in task_names()}
    for task, callback in callbacks.items():
        for id in ids:
            pair = example(task, id, NOISE)
            callback.collect([pair[0]], batch_of(task, [pair]))
    return callbacks


def compute(ids: list[int]) -> dict[str, float]:
    return {key: value for callback in collect(ids).values() for key, value in callback.compute().items()}


def work(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    results = [compute(split[rank]) for split in SPLITS]
    Path(folder, f"{rank}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


def test_union_of_two_processes__equals_one_process(tmp_path: Path):
    mp.start_processes(work, (str(tmp_path),), nprocs=2, start_method="fork")  # they need not import anything
    expected = [compute(sorted(set(split[0] + split[1]))) for split in SPLITS]
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == expected
    assert all(len(results) > 15 for results in expected)


class Dump(Callback):
    """Keeps what each process logged, and what it was warned of."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_validation_epoch_start(self, trainer, pl_module) -> None:
        self.caught = warnings.catch_warnings(record=True)
        self.warnings = self.caught.__enter__()
        warnings.simplefilter("always")

    def on_validation_end(self, trainer, pl_module) -> None:
        logged = {key: float(value) for key, value in trainer.callback_metrics.items()}
        messages = [str(w.message) for w in self.warnings if "sync_dist" in str(w.message)]
        self.caught.__exit__(None, None, None)
        dump = {"logged": logged, "warnings": messages}
        (self.folder / f"logged{trainer.global_rank}.json").write_text(json.dumps(dump))


@pytest.mark.parametrize("devices", [1, 2])
def test_trainer__processes_log_the_values_of_one(tmp_path: Path, devices: int):
    """Five images; on two processes the sampler repeats one, in a batch of its own kind; or one process."""
    tasks = task_names()
    data = [[batch_of(task, [example(task, id, NOISE)]) for id in range(5)] for task in tasks]
    # the sampler pads to 3 + 3; Lightning makes it and warns that samples repeat
    loaders = [DataLoader(batches, batch_size=None) for batches in data]
    assert DistributedSampler(data[0], 2, 0).total_size == 6
    trainer = quiet_trainer(
        devices=devices,
        strategy="ddp_fork",
        callbacks=[*(metric() for metric in METRICS), Dump(tmp_path)],
    )
    trainer.validate(Replay(NOISE), loaders, verbose=False)
    # what the data do not define (no object of that size) is not logged
    expected = {key: value for key, value in compute(list(range(5))).items() if value is not None}
    for rank in range(devices):
        dump = json.loads((tmp_path / f"logged{rank}.json").read_text())
        assert dump["logged"] == pytest.approx(expected, abs=1e-6)
        assert dump["warnings"] == []
