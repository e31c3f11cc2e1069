"""A source that no metric scores is named before training, once and in one sentence."""

from __future__ import annotations

import logging

import pytest
from commands import compose

from ufo.build import build_callbacks


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ([], []),
        (["callbacks.caption=null"], []),  # that of its kind is there
        (["callbacks.caption=null", "callbacks.answers=null"], ["digits/caption"]),
        (["callbacks.box_map=null", "callbacks.grounding=null"], ["digits/detection", "digits/grounding"]),
        (["callbacks.box_map=null", "sources.detection=null"], []),
    ],
)
def test_sources_without_a_metric_are_named(overrides, named, caplog):
    cfg = compose("mixture=digits", "callbacks=[metrics]", *overrides)
    with caplog.at_level(logging.WARNING):
        build_callbacks(cfg)
    assert [r.getMessage() for r in caplog.records if "No metric scores" in r.getMessage()] == [
        f"No metric scores {', '.join(named)}: it will have no number; "
        "add a metric of conf/metric/ or one of your own."
    ] * bool(named)
