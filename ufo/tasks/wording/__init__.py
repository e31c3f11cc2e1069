"""How each family of backbones is asked and answers: one file per family, chosen by `Backbone.wording`."""

from __future__ import annotations

from ufo.tasks.wording.base import Question, Wording
from ufo.tasks.wording.internvl import INTERNVL
from ufo.tasks.wording.llava import LLAVA
from ufo.tasks.wording.ufo_vit import UFO_VIT

__all__ = ["INTERNVL", "LLAVA", "UFO_VIT", "WORDINGS", "Question", "Wording"]

WORDINGS: dict[str, Wording] = {"ufo_vit": UFO_VIT, "internvl": INTERNVL, "llava": LLAVA}
