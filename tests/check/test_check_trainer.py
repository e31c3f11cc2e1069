"""Options that Lightning's trainer does not take end in a sentence of ours, not in Lightning's own words."""

from __future__ import annotations

import pytest
import torch

from ufo.check.trainer import check_devices, check_trainer

TRAINER = {"_target_": "lightning.Trainer"}


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("precision", "16-mixt", "did you mean '16-mixed'?"),
        ("precision", True, "trainer.precision=True is not known"),
        ("precision", [16], "there are: 16-mixed"),
        ("precision", 8, "there are: 16-mixed"),
        ("accelerator", "gpuu", "did you mean 'gpu'?"),
        ("strategy", "ddpp", "did you mean 'ddp'?"),
        ("strategy", "ddp_spawn", "take trainer.strategy=ddp"),
        ("strategy", "ddp_notebook_find_unused_parameters_true", "take trainer.strategy=ddp"),
        ("profiler", "simpel", "did you mean 'simple'?"),
        ("gradient_clip_algorithm", "length", "there are: norm, value"),
        ("max_time", "soon", "must be days:hours:minutes:seconds"),
        ("fast_dev_run", -3, "must be true, false or a number of batches"),
    ],
)
def test_a_name_that_lightning_does_not_know(key, value, expected):
    with pytest.raises(ValueError, match=f"trainer.{key}") as error:
        check_trainer({**TRAINER, key: value})
    assert expected in str(error.value) and len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "settings",
    [
        *({"precision": value} for value in ("auto", "bf16-mixed", "32-true", 16, "16", None)),
        *({"precision": "${other}"}, {"strategy": {"_target_": "ufo.modules.strategies.ddp"}}),
        *({"accelerator": "gpu"}, {"accelerator": "auto", "strategy": "auto"}, {"strategy": "fsdp"}),
        *({"max_time": "00:11:30:00"}, {"max_time": {"hours": 2}}, {"profiler": None}),
        *({"fast_dev_run": True}, {"fast_dev_run": 3}),
    ],
)
def test_what_lightning_takes(settings):
    check_trainer({**TRAINER, **settings})


@pytest.mark.parametrize(
    ("gpus", "settings", "expected"),
    [
        (0, {"devices": -3}, "ask for at least 1, or auto"),
        (0, {"devices": "-3"}, "ask for at least 1, or auto"),
        (0, {"devices": -1}, "ask for at least 1, or auto"),
        (0, {"devices": [0, 1]}, "lists numbers of GPUs, and nothing trains on one"),
        (0, {"devices": "0,1"}, "lists numbers of GPUs, and nothing trains on one"),
        (0, {"accelerator": "gpu"}, "finds no GPU on this machine; leave it out, or choose cpu"),
        (2, {"devices": -3}, "ask for at least 1, or auto"),
        (2, {"devices": 3}, "this machine has 2 GPUs"),
        (2, {"devices": [0, 2]}, "different GPUs of this machine, which has 2"),
        (2, {"devices": [1, 1]}, "different GPUs of this machine, which has 2"),
        (2, {"devices": [0, -1]}, "different GPUs of this machine, which has 2"),
        (2, {"devices": []}, "different GPUs of this machine, which has 2"),
        (2, {"devices": "0,5"}, "different GPUs of this machine, which has 2"),
        (2, {"devices": [0], "accelerator": "cpu"}, "lists numbers of GPUs, and nothing trains on one"),
    ],
)
def test_devices_that_are_not_there(monkeypatch, gpus, settings, expected):
    with_gpus(monkeypatch, gpus)
    with pytest.raises(ValueError, match=r"^trainer\.(devices|accelerator)=") as error:
        check_devices(settings)
    assert expected in str(error.value) and len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("gpus", "devices"), [(0, 2), (0, "auto"), (0, None), (2, -1), (2, [0, 1]), (2, "1,"), (2, "2"), (2, [1])]
)
def test_devices_that_are_there(monkeypatch, gpus, devices):
    with_gpus(monkeypatch, gpus)
    check_devices({"devices": devices})


def with_gpus(monkeypatch, number):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
