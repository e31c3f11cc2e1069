"""Texts of data sets as a model can read them: what is no text, half a character or endless is counted."""

from __future__ import annotations

from typing import Any

MAX_TEXT = 50_000
"""Characters of the longest text: about what the longest context of a language model holds."""
NO_TEXT = "text that is null or something else than text"
HALF = "text with half a character (a lone surrogate)"
ENDLESS = f"text of more than {MAX_TEXT} characters"


def usable_text(value: Any, train: bool) -> tuple[str, str | None]:
    """A text of a file and what is wrong with it, if anything.

    In training an unusable text is "", so that it is left out. Evaluation keeps every sample: half characters
    are replaced there, and an endless text is cut.
    """
    if not isinstance(value, str):
        return "", NO_TEXT
    problem = None
    if any("\ud800" <= character <= "\udfff" for character in value[: MAX_TEXT + 1]):
        problem = HALF
        value = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in value[: MAX_TEXT + 1])
    if len(value) > MAX_TEXT:
        problem, value = ENDLESS, value[:MAX_TEXT]
    return ("" if problem and train else value), problem
