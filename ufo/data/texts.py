"""Texts of data sets as a model can read them: what is not a text, half a character or endless is counted."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from ufo.types import MASK_TOKEN

MAX_TEXT = 50_000
"""Characters of the longest text: about what the longest context of a language model holds."""
NO_TEXT = "text that is null or something else than text"
HALF = "text with half a character (a lone surrogate)"
MARK = f"text with {MASK_TOKEN}, which stands for a mask"
ENDLESS = f"text of more than {MAX_TEXT} characters"


def is_writable(name: str) -> bool:
    """Whether a name can stand in any file: no control characters, no half characters (surrogates)."""
    return not any(unicodedata.category(character) in ("Cc", "Cs") for character in name)


def usable_text(value: Any, train: bool, marks: bool = False) -> tuple[str, str | None]:
    """A text of a file and what is wrong with it, if anything; `marks`: it may speak of masks.

    In training an unusable text is "", so that it is left out. Evaluation keeps every sample: half characters
    are replaced there, marks are taken out, and an endless text is cut.
    """
    if not isinstance(value, str):
        return "", NO_TEXT
    problem = None
    if any("\ud800" <= character <= "\udfff" for character in value[: MAX_TEXT + 1]):
        problem = HALF
        value = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in value[: MAX_TEXT + 1])
    if len(value) > MAX_TEXT:
        problem, value = ENDLESS, value[:MAX_TEXT]
    if not marks and MASK_TOKEN.lower() in value.lower():
        problem, value = MARK, re.sub(re.escape(MASK_TOKEN), " ", value, flags=re.IGNORECASE)
    return ("" if problem and train else value), problem
