"""What a foreign `tokenizer.json` may ask for, checked before it is used on any text.

Its patterns are run by a backtracking engine on every prompt: a repeat inside of a repeat takes time that
doubles with each letter. Its replacements may make a text longer at each step, and its padding may ask for
gigabytes. Published tokenizers have a few short patterns with neither. What reading a pattern does not tell,
a few texts do: a tokenizer that is slow on them is refused, too.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

MAX_PATTERN = 4096
"""Characters of a pattern."""
MAX_STEPS = 256
"""Patterns and replacements in one tokenizer."""
MAX_GROWTH = 4096
"""How many times longer all replacements together may make a text."""
MAX_REPEATS = 2
"""Endless repeats one after the other in an alternative of a pattern: each one multiplies the time."""
MAX_COUNT = 256
"""The largest number of a counted repeat, such as `{1,3}`."""
MAX_CHOICES = 4
"""How often a group that may be read in several ways may be repeated."""
MAX_DEPTH = 50
"""Groups inside of groups."""
MAX_SECONDS = 1.0
"""For a text of `PROBE` characters; published tokenizers take a hundredth of it."""
PROBE = 1000
SLOW = "its patterns take too long on a text; take the tokenizer as it was published"
STAGES = ("normalizer", "pre_tokenizer", "post_processor", "decoder")


def check_tokenizer(text: str) -> str:
    """The text of a `tokenizer.json` without padding and truncation, which only its library's caller decides.

    Raises ValueError, in one sentence, for patterns and replacements that could hang or fill the memory.
    """
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply to be a tokenizer") from error
    if not isinstance(content, dict):
        raise ValueError("it is not a tokenizer.json, which is one JSON object")
    patterns, growth, steps = [], 1, 0
    for node in _nodes({stage: content.get(stage) for stage in STAGES}):
        if isinstance(pattern := node.get("Regex"), str):
            patterns.append(pattern)
        added = node.get("content") if node.get("type") == "Replace" else node.get("prepend")
        if isinstance(added, str):
            steps, growth = steps + 1, min(growth * max(len(added), 1), MAX_GROWTH + 1)
    if len(patterns) + steps > MAX_STEPS:
        raise ValueError(
            f"it has {len(patterns) + steps} patterns and replacements, and {MAX_STEPS} are allowed"
        )
    if growth > MAX_GROWTH:
        raise ValueError(f"its replacements make a text more than {MAX_GROWTH} times longer")
    for pattern in patterns:
        if problem := problem_of(pattern):
            raise ValueError(
                f"its pattern {pattern[:60]!r} {problem}; take the tokenizer as it was published"
            )
    if content.get("padding") is None and content.get("truncation") is None:
        return text
    return json.dumps({**content, "padding": None, "truncation": None}, ensure_ascii=False)


def check_speed(tokenizer: Any) -> None:
    """Raises ValueError for a tokenizer that takes long for texts such as prompts, or fails on them."""
    prompt = "Task: detection; Class: zero,one,two,background; Bin: 0 to 56\n"
    for text in (prompt, "a", "A", " ", "1", ",", "_"):
        start = time.thread_time()
        with no_panic():
            tokenizer.encode((text * PROBE)[:PROBE], add_special_tokens=False)
        if time.thread_time() - start > MAX_SECONDS:
            raise ValueError(SLOW)


@contextmanager
def no_panic() -> Iterator[None]:
    """The engine of patterns gives up after ten million steps, with an error that is not an Exception."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(SLOW) from error


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    """All objects in a JSON value."""
    waiting = [value]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def problem_of(pattern: str) -> str | None:
    """Why a pattern could take endless time or memory on some text; None if it could not."""
    if len(pattern) > MAX_PATTERN:
        return f"has {len(pattern)} characters, and {MAX_PATTERN} are allowed"
    try:
        _Pattern(pattern).alternatives()
    except _Endless as error:
        return str(error)
    return None


class _Endless(Exception):
    """What is wrong with a pattern."""


@dataclass
class _Part:
    """What is in a part of a pattern."""

    endless: int = 0  # repeats without end (`*`, `+`, `{2,}`), the most one after the other
    choices: bool = False  # whether it may be read in several ways
    copies: int = 1  # of its longest part, once counted repeats are written out


class _Pattern:
    """Reads a pattern from left to right and counts its repeats."""

    def __init__(self, pattern: str) -> None:
        self.pattern, self.at = pattern, 0

    def alternatives(self, depth: int = 0) -> _Part:
        """All up to the end of the group."""
        if depth > MAX_DEPTH:
            raise _Endless(f"has groups more than {MAX_DEPTH} deep")
        whole, row = _Part(), 0
        while self.at < len(self.pattern) and self.pattern[self.at] != ")":
            if self.pattern[self.at] == "|":
                self.at, row, whole.choices = self.at + 1, 0, True
                continue
            part = self._one(depth)
            low, high = self._repeat()
            often = high is None or high > MAX_CHOICES
            if part.endless and (high is None or high > 1):
                raise _Endless("repeats what is repeated without end already")
            if part.choices and often:
                raise _Endless("repeats what may be read in several ways")
            whole.copies = max(whole.copies, part.copies * max(low, high or 1))
            if whole.copies > MAX_COUNT:
                raise _Endless(f"repeats something more than {MAX_COUNT} times")
            row += part.endless + (high is None)
            if row > MAX_REPEATS:
                raise _Endless(f"has more than {MAX_REPEATS} endless repeats in a row")
            whole.endless = max(whole.endless, row)
            whole.choices |= part.choices or low != high
        return whole

    def _one(self, depth: int) -> _Part:
        """Pass one letter, class or group."""
        sign = self.pattern[self.at]
        self.at += 1
        if sign == "\\":
            self._escape()
        elif sign == "[":
            self._class()
        elif sign == "(":
            return self._group(depth)
        return _Part()

    def _escape(self) -> None:
        sign = self.pattern[self.at : self.at + 1]
        if sign in ("k", "g") or (sign.isdigit() and sign != "0"):
            raise _Endless("refers to an earlier part of the text")
        self.at += 1
        if sign in ("p", "P", "x", "u", "o") and self.pattern[self.at : self.at + 1] == "{":
            self.at = self._after("}")

    def _class(self) -> None:
        """Up to the end of a class, which may hold others."""
        if self.pattern[self.at : self.at + 1] == "^":
            self.at += 1
        first = True
        while self.at < len(self.pattern):
            sign = self.pattern[self.at]
            self.at += 1
            if sign == "\\":
                self.at += 1
            elif sign == "[":
                if self.pattern[self.at : self.at + 1] == ":":
                    self.at = self._after("]")
                else:
                    self._class()
            elif sign == "]" and not first:
                return
            first = False

    def _group(self, depth: int) -> _Part:
        if self.pattern[self.at : self.at + 2] == "?#":  # a comment
            self.at = self._after(")")
            return _Part()
        if self.pattern[self.at : self.at + 1] == "?":
            self.at += 1
            while self.at < len(self.pattern) and self.pattern[self.at] in "imxsWDSPya-":  # options
                self.at += 1
            following = self.pattern[self.at : self.at + 1]
            if following in ("(", "~", "R", "&", "{"):
                raise _Endless("has a condition or calls itself")
            if following == "<" and self.pattern[self.at + 1 : self.at + 2] not in ("=", "!"):
                self.at = self._after(">")
            elif following in (":", "=", "!", ">", "<"):
                self.at += 1 + (following == "<")
        inside = self.alternatives(depth + 1)
        self.at += 1  # the closing bracket
        return inside

    def _repeat(self) -> tuple[int, int | None]:
        """How often the last thing comes at least and at most; None: without end."""
        low, high = 1, 1
        endless = False
        while self.at < len(self.pattern):
            sign = self.pattern[self.at]
            if sign in "*+?":  # a second sign says how much is taken, and changes nothing here
                low, endless = low * (sign == "+"), endless or sign != "?"
                self.at += 1
            elif sign == "{" and (found := self._counted()):
                low, endless = low * found[0], endless or found[1] is None
                high *= found[1] or max(found[0], 1)
            else:
                break
        return low, None if endless else high

    def _counted(self) -> tuple[int, int | None] | None:
        """`{2}`, `{2,}`, `{2,3}`, `{,3}` at this place; None if it is a plain bracket."""
        end = self.pattern.find("}", self.at)
        inside = self.pattern[self.at + 1 : end] if end > 0 else ""
        low, comma, high = inside.partition(",")
        if not (low or high) or not all(part.isdecimal() and len(part) < 9 for part in (low, high) if part):
            if inside and set(inside) <= set("0123456789,"):
                raise _Endless("has a counted repeat of more than eight digits")
            return None
        self.at = end + 1
        if not comma:
            return int(low), int(low)
        return int(low or 0), int(high) if high else None

    def _after(self, sign: str) -> int:
        end = self.pattern.find(sign, self.at)
        return len(self.pattern) if end < 0 else end + 1
