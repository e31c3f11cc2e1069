"""XML files of users, without document types: those may define entities that grow without bound.

Python's own ElementTree expands entities. Here the parser itself refuses them, in any encoding of the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

from ufo.data.errors import DataError

MAX_DEPTH = 64


def parse_xml(path: Path, most: int) -> ElementTree.Element:
    """The root of an XML file of up to `most` bytes. Raises DataError."""
    if path.stat().st_size > most:
        raise DataError(f"{path} has more than {most >> 20} MB, which is too large for its annotations.")
    builder, depth = ElementTree.TreeBuilder(), 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise DataError(f"{path} is nested too deeply to be an annotation file.")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_: Any) -> None:
        raise DataError(
            f"{path} has a document type or defines its own entities: remove them, labels need none."
        )

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    content = path.read_bytes()
    try:
        parser.Parse(content, True)
        return builder.close()
    except (expat.ExpatError, LookupError, ValueError) as error:
        at = _undecodable(content) if "invalid token" in str(error) else None
        if at is not None:
            raise DataError(
                f"{path} is not UTF-8 text at byte {at}, and names no other encoding: save it as UTF-8."
            ) from error
        raise DataError(f"{path} is not valid XML ({error}): fetch the file again.") from error


def _undecodable(content: bytes) -> int | None:
    """The first byte that is not UTF-8, if any."""
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start
    return None
