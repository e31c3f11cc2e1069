"""Answers that `max_length` ends before they are said: training learns them whole, nothing finds them.

How many tokens an answer takes depends on how the tokenizer spells names and numbers: no task can know it.
"""

from __future__ import annotations

from typing import Any

from ufo.data.module import UFODataModule
from ufo.data.problems import DOUBTFUL
from ufo.model import UFO

CUT = "longest answer, about one class or expression, that max_length cuts, so that its end is never found"


def check_answers(model: UFO, data: UFODataModule) -> None:
    """Count the answers that are cut among the problems of all data that a run has built."""
    for source in data.sources:
        for split in source.built:
            report_cut(model, source.task, source.data(split))


def report_cut(model: UFO, task: str, data: Any) -> None:
    """Count the answers about a data set that decoding would leave off in the midst of."""
    chosen = model.task(task)
    if chosen.constrained:  # well-formed answers get the room they need
        return
    answers = chosen.longest_answers(tuple(getattr(data, "classes", ())))
    lengths = [len(ids) - 2 for ids in model.tokenizer.encode(answers)]  # without start and end
    cut = [i for i, length in enumerate(lengths) if length > chosen.max_length]
    if cut:
        where = (
            f"'{answers[cut[0]][:60]}' takes {lengths[cut[0]]} tokens and max_length is {chosen.max_length}; "
            f"set tasks.{task}.max_length={max(lengths)}"
        )
        data.problems.report(CUT, where, effect=DOUBTFUL, number=len(cut))
