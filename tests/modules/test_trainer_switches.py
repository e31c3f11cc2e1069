"""Settings of Lightning's trainer that rule out a callback leave it out: Lightning itself refuses both."""

from __future__ import annotations

import pytest
from commands import compose
from lightning.pytorch.callbacks import Checkpoint, ProgressBar

from ufo.build import build_callbacks


@pytest.mark.parametrize(
    ("switch", "kind"), [("enable_progress_bar", ProgressBar), ("enable_checkpointing", Checkpoint)]
)
def test_a_callback_that_is_switched_off_is_left_out(switch, kind):
    chosen = "mixture=digits", "callbacks=[checkpoint,progress]"
    as_usual = build_callbacks(compose(*chosen))
    without = build_callbacks(compose(*chosen, f"+trainer.{switch}=false"))
    assert [type(c) for c in without] == [type(c) for c in as_usual if not isinstance(c, kind)]
    assert len(without) < len(as_usual)
