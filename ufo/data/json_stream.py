"""JSON files of any size, one record at a time: memory for a chunk of text instead of the whole file.

Reads `{"images": [...], "annotations": [...]}` and `[...]`; Python's own decoder parses each record, so
what is accepted and what errors say is as with `json.loads`.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ufo.data.errors import DataError

CHUNK = 4 << 20
"""Bytes that are read at once."""
PIECE = 1 << 20
"""Characters of a list that are parsed at once."""
EMPTY: Any = type("Empty", (), {"__repr__": lambda self: "no record"})()
"""Stands for the records of a list that has none; a `null` in the list is a record, and a wrong one."""
SHOWN = 80
"""Characters of an object in a message."""
_NEAR_END = 16  # characters: a number or literal that the end of a chunk has cut is not longer
_SPACE = re.compile(r"[ \t\n\r]*")


def _number(digits: str) -> int | float:
    """A whole number of a file; one of thousands of digits, which `int` refuses, is infinite."""
    return int(digits) if len(digits) < 4000 else float(digits)


class TwiceError(DataError):
    """An object says one key twice; which of the two is meant nobody can know."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of some pairs. Raises TwiceError for a key that stands twice: Python would take the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise TwiceError(
            f"one object has `{twice[:SHOWN]}` twice ({glimpse(pairs)}); keep the one that counts"
        )
    return found


def glimpse(pairs: Iterable[tuple[str, Any]]) -> str:
    """The beginning of an object as a message tells it from others: its numbers and texts, cut."""
    plain = [(name, value) for name, value in pairs if isinstance(value, (int, float, str))]
    return "{" + ", ".join(f'"{name}": {json.dumps(value)}' for name, value in plain)[:SHOWN] + " ...}"


_decode = json.JSONDecoder().raw_decode
_decode_once = json.JSONDecoder(object_pairs_hook=_once).raw_decode
_decode_long = json.JSONDecoder(parse_int=_number, object_pairs_hook=_once).raw_decode  # slower


def _parse(text: str, at: int, once: bool) -> tuple[Any, int]:
    """The value that begins at `at`, and where it ends; a number of thousands of digits is no error."""
    try:
        return (_decode_once if once else _decode)(text, at)
    except json.JSONDecodeError:
        raise
    except ValueError:
        return _decode_long(text, at)


def loads(content: str | bytes, once: bool = False) -> Any:
    """As `json.loads`, but a number of any length is none that ends the reading of a file.

    Args:
        once: a key that stands twice in one object is a TwiceError, which costs some of the speed.
    """
    hook = _once if once else None
    try:
        return json.loads(content, object_pairs_hook=hook)
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except ValueError:
        return json.loads(content, parse_int=_number, object_pairs_hook=hook)


def json_error(path: str | Path, message: str, cut: bool, line: int, column: int, place: int) -> DataError:
    """What is wrong at one place (`line` and `column` from 1, `place` in characters from 0)."""
    what = "is cut short" if cut else "is not valid JSON"
    return DataError(
        f"{path} {what} at line {line}, column {column} (character {place}): {message}; fetch or write the "
        "file again."
    )


def lines_error(path: str | Path) -> DataError:
    """The error of a file that is read as one JSON value, and holds one after the other."""
    name = Path(path).with_suffix(".jsonl").name
    return DataError(
        f"{path} holds an object per line (JSON lines), where one JSON value is read: write the objects into "
        f"one list, with commas between them, or name the file {name} where such files are read."
    )


def json_records(path: str | Path, once: bool = False) -> Iterator[tuple[str, Any]]:
    """(list's name, record) for all records of the lists of a JSON object, in file order.

    Of a file that is a list itself the name is "". A list without records gives (name, EMPTY) once; values
    that are no lists are passed over. Raises DataError with the position of what is wrong.

    Args:
        once: refuse a key that stands twice in one object. Annotation files of gigabytes are read without.
    """
    with open(path, "rb") as file:
        text = _Text(path, file, once)
        try:
            if text.peek() == "[":
                yield from _list(text, "")
            elif text.peek() == "{":
                yield from _object(text)
            else:
                text.value()
            if text.peek():
                raise lines_error(path) if text.peek() == "{" else text.error("Extra data")
        except RecursionError as error:
            raise DataError(f"{path} is nested too deeply to be an annotation file.") from error
        except TwiceError as error:
            raise DataError(f"{path}: {error}.") from None


def _object(text: _Text) -> Iterator[tuple[str, Any]]:
    text.take("{")
    lists: set[str] = set()
    while text.peek() != "}":
        if text.peek() != '"':
            raise text.error("Expecting property name enclosed in double quotes")
        name = text.value()
        if text.peek() != ":":
            raise text.error("Expecting ':' delimiter")
        text.take(":")
        if text.peek() == "[":
            if name in lists:
                raise DataError(f"{text.path} has two lists `{name}`; keep one.")
            lists.add(name)
            yield from _list(text, name)
        else:
            text.value()
        text.separator("}")
    text.take("}")


def _list(text: _Text, name: str) -> Iterator[tuple[str, Any]]:
    text.take("[")
    if text.peek() == "]":
        yield name, EMPTY
    while text.peek() != "]":
        for value in text.values():
            yield name, value
        text.separator("]")
    text.take("]")


class _Text:
    """A window of decoded text that moves over the file."""

    def __init__(self, path: str | Path, file: BinaryIO, once: bool) -> None:
        self.path, self.file, self.once = path, file, once
        start = file.read(CHUNK)
        self._decoder = codecs.getincrementaldecoder(json.detect_encoding(start))("surrogatepass")
        self._bytes = 0  # given to the decoder
        self._text, self._at, self._ended = "", 0, False
        self._single = 0  # up to this place of the window `values` gives one value at a time
        # of the text that is gone
        self._characters, self._lines, self._column = 0, 0, 0
        self._append(start)

    def peek(self) -> str:
        """The next character that is not white space, "" at the end of the file."""
        while True:
            space = _SPACE.match(self._text, self._at)
            assert space is not None  # the pattern also matches nothing at all
            self._at = space.end()
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def take(self, character: str) -> None:
        assert self.peek() == character
        self._at += 1

    def separator(self, end: str) -> None:
        """Pass over the comma that stands between two entries; before `end` there is none."""
        if self.peek() == ",":
            self._at += 1
            if self.peek() == end:
                raise self.error("Illegal trailing comma before end of " + ("list", "object")[end == "}"])
        elif self._text[self._at : self._at + 1] != end:
            raise self.error("Expecting ',' delimiter")

    def value(self) -> Any:
        """Parse and pass over the next value."""
        self.peek()
        while True:
            try:
                value, end = _parse(self._text, self._at, self.once)
            except json.JSONDecodeError as error:
                unfinished = error.pos > len(self._text) - _NEAR_END or error.msg.startswith("Unterminated")
                if unfinished and self._more():
                    continue
                raise self.error(error.msg, error.pos) from None
            # a number at the very end of the window may go on
            if end < len(self._text) or not self._more():
                self._at = end
                return value

    def values(self) -> list[Any]:
        """Parse and pass over the next entries of a list: as many as one call of the decoder can take.

        A piece that ends between two records is a list of its own once it has brackets, and what it then
        holds is what single calls would find. Where it is none (a bracket in a text, the list's end), the
        decoder says so and the piece is read record by record.
        """
        if self._at >= self._single:
            stop = self._at + PIECE
            end = max(self._text.rfind(mark, self._at, stop) for mark in ("},{", "}, {", "},\n{"))
            if end >= 0:
                try:
                    values = loads(f"[{self._text[self._at : end + 1]}]", self.once)
                except json.JSONDecodeError:
                    self._single = end
                else:
                    self._at = end + 1
                    return values
        return [self.value()]

    def error(self, message: str, at: int | None = None) -> DataError:
        """The error at a place of the window, by default the next character."""
        at = self._at if at is None else at
        before = self._text[:at]
        newline = before.rfind("\n")
        column = at - newline if newline >= 0 else self._column + at + 1
        cut = not self._text[at:].strip() or message.startswith("Unterminated string")
        line = self._lines + before.count("\n") + 1
        return json_error(self.path, message, cut, line, column, self._characters + at)

    def _more(self) -> bool:
        """Read on; False at the end of the file."""
        if self._ended:
            return False
        gone, self._text = self._text[: self._at], self._text[self._at :]
        self._characters += len(gone)
        self._lines += gone.count("\n")
        newline = gone.rfind("\n")
        self._column = len(gone) - newline - 1 if newline >= 0 else self._column + len(gone)
        self._at, self._single = 0, max(0, self._single - len(gone))
        # as much again as there is, so that a long value is not parsed once per chunk
        self._append(self.file.read(max(CHUNK, len(self._text))))
        return True

    def _append(self, content: bytes) -> None:
        self._ended = not content
        pending = len(self._decoder.getstate()[0])
        try:
            self._text += self._decoder.decode(content, final=self._ended)
        except UnicodeDecodeError as error:
            place = self._bytes - pending + error.start
            raise DataError(
                f"{self.path} is not UTF-8 text at byte {place} ({error.reason}): save it as UTF-8."
            ) from error
        self._bytes += len(content)
