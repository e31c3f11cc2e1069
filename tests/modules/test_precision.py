"""`trainer.precision=auto` on machines with and without bfloat16 arithmetic."""

from __future__ import annotations

import logging

import pytest
import torch
from commands import CONF, compose

from ufo.build import build_trainer
from ufo.modules.precision import chosen_precision

CPUS = {"AVX2": "32-true", "DEFAULT": "32-true", "AVX512": "bf16-mixed"}


@pytest.fixture(params=CPUS)
def cpu(request, monkeypatch) -> str:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: request.param)
    return request.param


def test_auto_is_what_the_cpu_computes_in(cpu):
    assert chosen_precision("auto", "cpu") == CPUS[cpu]
    trainer = build_trainer(
        compose("experiment=digits", "trainer.accelerator=cpu"), callbacks=[], logger=False
    )
    assert trainer.precision == CPUS[cpu]


@pytest.mark.parametrize("native", [True, False])
def test_auto_is_what_the_gpu_computes_in(native, monkeypatch):
    def supported(including_emulation=True):
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert chosen_precision("auto", "cuda") == ("bf16-mixed" if native else "32-true")


def test_a_precision_that_was_asked_for_is_taken_and_called_slow_where_it_is(cpu, caplog):
    with caplog.at_level(logging.WARNING):
        assert chosen_precision("bf16-mixed", "cpu") == "bf16-mixed"
    assert ("only emulates" in caplog.text) == (CPUS[cpu] == "32-true")
    assert chosen_precision("32-true", "cpu") == "32-true" and chosen_precision(None, "cpu") is None


def test_no_recipe_waits_for_emulated_bfloat16():
    assert not [path for path in CONF.rglob("*.yaml") if "precision: bf16" in path.read_text()]
