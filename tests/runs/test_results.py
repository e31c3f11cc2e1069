"""What the last table of a run has no number of is said beside it."""

from __future__ import annotations

import pytest
from commands import compose

from ufo.runs.results import unmeasured


@pytest.mark.parametrize("experiment", ["digits_encoder", "internvl_tiny_masks"])
def test_sources_without_a_number_are_named(experiment):
    cfg = compose(f"experiment={experiment}")
    said = unmeasured(cfg, {})
    assert said is not None and len(said.splitlines()) == 1
    assert "detection, semantic_segmentation, caption" in said and "(left out of this run)" in said
    assert "digits/instance_segmentation" in said and "a module that predicts nothing" in said


def test_all_sources_have_numbers():
    cfg = compose("experiment=digits")
    values = {f"val/{source.name}/number": None for source in cfg.sources.values()}
    assert unmeasured(cfg, values) is None
    cfg.sources.caption.dataset.val = None
    values.pop("val/digits/caption/number")
    assert unmeasured(cfg, values) == "not evaluated: digits/caption (no validation data)"
