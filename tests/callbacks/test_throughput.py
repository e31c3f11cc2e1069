"""Speed of a tiny training whose steps and data take known times."""

from __future__ import annotations

import csv
import time
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from one_weight import OneWeight
from torch.utils.data import DataLoader, Dataset
from trainers import quiet_trainer

from ufo.callbacks.throughput import Throughput, max_memory

STEP, LOAD, BATCH = 0.02, 0.03, 4


class Slow(Dataset):
    """Every item is a batch that takes `LOAD` seconds."""

    def __len__(self):
        return 100

    def __getitem__(self, i):
        time.sleep(LOAD)
        return torch.zeros(BATCH, 1)


class Module(OneWeight):
    def training_step(self, batch, batch_idx):
        time.sleep(STEP)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        time.sleep(10 * STEP)


def rows(folder: Path, **options) -> list[dict[str, float]]:
    """Train and return the logged rows that hold speeds."""
    options = {"max_steps": 12, "log_every_n_steps": 4, "callbacks": [Throughput()], **options}
    run = quiet_trainer(
        default_root_dir=folder,
        logger=CSVLogger(folder, "csv", ""),
        **options,
    )
    validation = DataLoader(torch.zeros(1, 1))
    run.fit(Module(), DataLoader(Slow(), batch_size=None), validation)
    metrics = folder / "csv/metrics.csv"  # written only if there is something to write
    lines = metrics.read_text().splitlines() if metrics.is_file() else []
    found = [row for row in csv.DictReader(lines) if row.get("speed/images_per_s")]
    return [{k: float(v) for k, v in row.items() if v} for row in found]


@pytest.mark.heavy
def test_speed_and_waiting_are_logged_every_n_steps(tmp_path):
    found = rows(tmp_path)
    assert [row["step"] for row in found] == [3, 7, 11]
    for row in found[1:]:
        # sleeping may take longer on a busy machine, never shorter
        assert 0.2 * BATCH / (STEP + LOAD) < row["speed/images_per_s"] < BATCH / (STEP + LOAD)
        assert 0.25 < row["speed/data_wait"] < 0.95
        assert 0.05 < row["speed/memory_gb"] < 100


@pytest.mark.heavy
def test_accumulated_batches_count_as_one_step(tmp_path):
    counted = []

    class Spy(Throughput):
        def values(self, trainer):
            counted.append(self._images)
            return super().values(trainer)

    found = rows(tmp_path, accumulate_grad_batches=3, max_steps=4, log_every_n_steps=2, callbacks=[Spy()])
    # the operations of the very first batch are counted, which makes it slow: it does not count
    assert counted == [(2 * 3 - 1) * BATCH, 2 * 3 * BATCH]
    assert [row["step"] for row in found] == [1, 3]
    assert found[1]["speed/images_per_s"] < BATCH / (STEP + LOAD)


@pytest.mark.slow
def test_validation_is_neither_time_nor_waiting(tmp_path):
    class Saved(Callback):
        """Takes long to save, like a large checkpoint."""

        def on_save_checkpoint(self, trainer, pl_module, checkpoint):
            time.sleep(0.3)

        def on_train_batch_end(self, trainer, *_):
            trainer.save_checkpoint(tmp_path / "last.ckpt")

    plain = rows(tmp_path / "a", max_steps=8)
    validated = rows(tmp_path / "b", max_steps=8, val_check_interval=1)
    saved = rows(tmp_path / "c", max_steps=8, callbacks=[Throughput(), Saved()])
    wait = plain[-1]["speed/data_wait"]
    # every validation takes four times as long as a step with its data: with them the speed
    # would fall to a fifth
    assert validated[-1]["speed/images_per_s"] > 0.5 * plain[-1]["speed/images_per_s"]
    assert validated[-1]["speed/data_wait"] < wait
    assert saved[-1]["speed/images_per_s"] > 0.5 * plain[-1]["speed/images_per_s"]


def test_no_logging_when_the_trainer_logs_nothing(tmp_path):
    assert rows(tmp_path, log_every_n_steps=0, max_steps=2) == []


def test_all_processes_count():
    throughput = Throughput()
    throughput._images, throughput._busy, throughput._waited = 10, 3.0, 1.0

    class Strategy:
        root_device = torch.device("cpu")

    class Trainer:
        world_size, strategy = 8, Strategy()

    values = throughput.values(Trainer())
    assert values["speed/images_per_s"] == pytest.approx(20)
    assert values["speed/data_wait"] == pytest.approx(0.25)


def test_memory_of_this_process_is_its_peak():
    before = max_memory(torch.device("cpu"))
    block = torch.ones(120_000_000, dtype=torch.uint8)
    assert max_memory(torch.device("cpu")) >= before
    assert max_memory(torch.device("cpu")) > block.nbytes
