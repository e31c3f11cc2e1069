"""Files of JSON lines, an object per line (JSONL), whatever their names end with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ufo.data.errors import DataError
from ufo.data.json_stream import TwiceError, loads

SUFFIXES = (".jsonl", ".ndjson")
LONGEST = 16 << 20
"""Bytes of a first line that is looked at; one object of a whole file may have gigabytes."""
_MARK = b"\xef\xbb\xbf"  # that Windows' tools begin a text with


def is_jsonl(path: Path) -> bool:
    """Whether the name of a file says that it holds an object per line."""
    return path.suffix.lower() in SUFFIXES


def holds_lines(path: Path) -> bool:
    """Whether a file holds an object per line, and not one JSON value: by what is in it, else by its name."""
    with open(path, "rb") as file:
        first = file.readline(LONGEST).removeprefix(_MARK)
        while first and not first.strip():
            first = file.readline(LONGEST)
        follows = any(line.strip() for line in iter(lambda: file.readline(LONGEST), b""))
    if first.lstrip()[:1] != b"{":
        return is_jsonl(path) and first.lstrip()[:1] != b"["
    try:
        loads(first)
    except (ValueError, RecursionError):
        return is_jsonl(path) and first.strip() != b"{"  # else one object over several lines
    return follows or is_jsonl(path)


def value_error(path: Path) -> DataError:
    """The error of a file that is read by lines, and holds one JSON value."""
    return DataError(
        f"{path} holds one JSON value, where an object per line is read (JSON lines): write each record into "
        "a line of its own, without brackets around all and commas between them."
    )


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, record) of a JSONL file. DataError with the line if one is not a JSON object."""
    first = True
    with open(path, "rb") as file:
        for line, content in enumerate(file, start=1):
            if not content.strip():
                continue
            if first and (content.lstrip()[:1] == b"[" or content.strip() == b"{"):
                raise value_error(path)
            first = False
            try:
                record = loads(content, once=True)
            except TwiceError as error:
                raise DataError(f"{path}, line {line}: {error}.") from None
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path}, line {line} is not UTF-8 text at byte {error.start}: save it as UTF-8."
                ) from error
            except (json.JSONDecodeError, RecursionError) as error:
                cut = not content.endswith(b"\n")
                what = "is cut short" if cut else "is not valid JSON"
                raise DataError(
                    f"{path}, line {line} {what}: {error}; correct the line, or leave it out."
                ) from error
            if not isinstance(record, dict):
                raise DataError(f"{path}, line {line} is not a JSON object in {{...}}; leave it out.")
            yield line, record
