"""LLaVA's words: those of InternVL with a line break before lists of classes.

See docs/published_system.md#words.
"""

from __future__ import annotations

from dataclasses import replace

from ufo.tasks.wording.base import Question
from ufo.tasks.wording.internvl import DETECTION, INTERNVL, PHRASE, QUESTIONS, last_asked

LLAVA = replace(
    INTERNVL,
    questions={
        **QUESTIONS,
        "detection": Question("\n" + DETECTION),
        "instance_segmentation": Question("\n" + QUESTIONS["instance_segmentation"].asked),
        "reasoning_phrase": last_asked(("Can you segment the {text} in this image?", *PHRASE[1:])),
    },
)
