"""What the readers of label formats read with: files of bounded size, and pictures that can be read.

XML with a document type is refused, since those define entities that grow without bound.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import PIL.Image

from ufo.data.datasets.base import read_json
from ufo.data.errors import DataError
from ufo.data.json_lines import value_error
from ufo.data.json_stream import TwiceError, loads
from ufo.data.labels.finding import Pictures, stem_of, walk
from ufo.data.labels.record import Picture, split_of
from ufo.data.pictures import IMAGE_FORMATS, image_sizes
from ufo.data.problems import DOUBTFUL, Problems
from ufo.data.texts import is_writable
from ufo.data.xml_files import parse_xml

MAX_FILE = 512 << 20
"""Bytes of the largest annotation file that is read as a whole."""

MISSING = "picture that is not there"
OTHER_SIZE = "picture of another size than its labels say"
SWAPPED = "picture whose labels name its height as its width"
OWN_NAME = "label file that says another picture's name than its own, which counts"


class Source(Pictures):
    """The folder or file that is imported, and its pictures.

    Args:
        path: what the user named.
        images: where the pictures are, if not below `path` (or beside it, if that is a file).
        scratch: folder for pictures that the files themselves hold.
        classes: the names that count, in their order; None: those of the files.
    """

    def __init__(
        self,
        path: Path,
        images: Path | None = None,
        scratch: Path | None = None,
        classes: list[str] | None = None,
    ) -> None:
        self.path, self.scratch, self.classes = path, scratch, classes
        self.folder = path if path.is_dir() else path.parent
        super().__init__(images or self.folder, Problems(str(path), quiet=True))
        self.seen: Callable[[], None] = lambda: None  # called for every picture that is read
        self._all: list[Path] | None = None
        self._seen: dict[Path, list[tuple[int, int]] | None] = {}

    # --- files

    def files(self, *suffixes: str, under: Path | None = None) -> list[Path]:
        """The files with one of some suffixes, sorted; of a single file that one."""
        if self.path.is_file() and under is None:
            return [self.path] if self.path.suffix.lower() in suffixes else []
        if self._all is None:
            self._all = list(walk(self.folder))
        return [p for p in self._all if p.suffix.lower() in suffixes and (not under or under in p.parents)]

    def first(self, *names: str) -> Path | None:
        """The uppermost file with one of some names (in lower case)."""
        found = [p for p in self.files(*{Path(n).suffix for n in names}) if p.name.lower() in names]
        return min(found, key=lambda p: (len(p.parts), p), default=None)

    def place(self, path: Path, line: int | None = None) -> str:
        """A file as it is named in messages."""
        name = path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else str(path)
        return name if line is None else f"{name}, line {line}"

    def sign(self, paths: Iterable[Path]) -> str:
        """By what a format is recognised: the first of its files as messages name it; empty without any."""
        return next((self.place(path) for path in paths), "")

    def split(self, path: Path, name: str = "", *, stem: bool = True) -> str:
        """The split after which a label file is called, or a folder of it, or one of the picture it names.

        A file for one picture (no `stem`) is called as the picture is, which says nothing.
        """
        inside = path.relative_to(self.folder).parts[:-1] if path.is_relative_to(self.folder) else ()
        words = [*([path.stem] if stem else []), *reversed(inside)]
        words += self.inside(name)
        return next((split for word in words if (split := split_of(word))), "")

    # --- pictures

    def own(self, said: str, file: Path) -> Path | None:
        """The picture of a label file: the one of the file's own name, else the one that it says.

        What it says is often left from before both were renamed, and may be another picture now.
        """
        told = self.find(said, file.parent) if said else None
        if told is not None and stem_of(said) == file.stem:
            return told
        own = self.with_stem(file.stem, file.parent)
        if own is not None and told is not None and own != told:
            self.problems.report(OWN_NAME, f"{self.place(file)}: {said[:100]}", effect=DOUBTFUL)
        return own or told

    def open(
        self,
        path: Path | None,
        where: str,
        *,
        size: tuple[Any, Any] | None = None,
        split: str = "",
        exact: bool = True,
    ) -> Picture | None:
        """A picture ready to be labelled; None, and counted, if it is not there or cannot be read.

        `size` is the (height, width) that the labels were made for, as the file says it. Unless `exact`, they
        are shares of the picture and fit any size.
        """
        if path is None:
            self.problems.report(MISSING, where)
            return None
        if not is_writable(str(path)):
            self.problems.report("picture whose name is not UTF-8: rename it", repr(str(path)))
            return None
        self._meant.add(path)
        sizes = self._sizes(path)
        if sizes is None:
            return None
        given = _size(size) or sizes[0]
        if given not in sizes:
            said = f"{self.place(path)}: {given[1]}x{given[0]} and {sizes[0][1]}x{sizes[0][0]}"
            if exact and given[::-1] not in sizes:
                self.problems.report(OTHER_SIZE, said)
                return None
            self.problems.report(SWAPPED if exact else OTHER_SIZE, said, effect=DOUBTFUL)
            given = sizes[0]
        return Picture(path, given, split)

    def _sizes(self, path: Path) -> list[tuple[int, int]] | None:
        if path not in self._seen:
            self.seen()
            try:
                self._seen[path] = image_sizes(path)
                _decode(path)
            except DataError as error:
                self.problems.report("picture that cannot be read", str(error))
                self._seen[path] = None
        return self._seen[path]

    def keep(self, name: str, content: bytes) -> Path:
        """Write a picture that a label file holds; returns where it is."""
        if self.scratch is None:
            raise DataError(f"{self.path} holds pictures itself; there is no folder to write them to.")
        path = self.scratch / "images" / re.sub(r"[^\w.-]", "_", name)
        while path.exists():
            path = path.with_name(f"{path.stem}_{path.suffix}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path


def bounded(path: Path, most: int = MAX_FILE) -> Path:
    """The path, or DataError if the file is too large to be read as a whole."""
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    if path.stat().st_size > most:
        raise DataError(f"{path} has more than {most >> 20} MB; export it in parts.")
    return path


def json_of(path: Path, most: int = MAX_FILE) -> Any:
    """A JSON file of bounded size. Raises DataError."""
    return read_json(bounded(path, most))


def text_of(path: Path, most: int = MAX_FILE) -> str:
    """A text file in UTF-8, or in UTF-16 with its mark, as Windows' tools write it. Raises DataError."""
    content = bounded(path, most).read_bytes()
    try:
        return content.decode(_encoding(content))
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text at byte {error.start}: save it as UTF-8.") from error


def lines_of(path: Path, most: int = MAX_FILE) -> list[str]:
    """The lines of a text file. Raises DataError."""
    # splitlines() would also cut at characters that only look like the end of a line (U+2028)
    return [line.rstrip("\n") for line in io.StringIO(text_of(path, most), newline=None)]


def rows_of(path: Path) -> list[tuple[int, list[str]]]:
    """(line, cells) of a CSV file with commas, semicolons or tabs; empty lines are left out.

    A cell in quotes may have several lines, and keeps them.
    """
    text = text_of(path)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark_of(text), skipinitialspace=True)
        return [(reader.line_num, [c.strip() for c in row]) for row in reader if any(c.strip() for c in row)]
    except csv.Error as error:
        raise DataError(f"{path} is not a CSV file: {error}.") from error


def mark_of(text: str) -> str:
    """What stands between the cells of a CSV text that begins like this: a comma, a semicolon or a tab."""
    head = next((line for line in io.StringIO(text, newline=None) if line.strip()), "")
    return max(",;\t", key=head.count)


def objects_of(path: Path) -> Iterator[tuple[int, Any]]:
    """(line, value) of a JSONL file, empty lines left out. Raises DataError."""
    lines = [(line, text) for line, text in enumerate(lines_of(path), start=1) if text.strip()]
    if lines and lines[0][1].lstrip()[0] == "[":
        raise value_error(path)
    for line, text in lines:
        try:
            yield line, loads(text, once=True)
        except TwiceError as error:
            raise DataError(f"{path}, line {line}: {error}.") from None
        except ValueError as error:
            raise DataError(f"{path}, line {line} is not valid JSON: {error}.") from error


def xml_of(path: Path, most: int = MAX_FILE) -> ElementTree.Element:
    """The root of an XML file without document type or entities. Raises DataError."""
    return parse_xml(bounded(path, most), most)


def peek(path: Path, count: int = 4096) -> str:
    """The beginning of a file as text, whatever it is; empty if it cannot be read."""
    try:
        with open(path, "rb") as file:
            content = file.read(count)
    except OSError:
        return ""
    return content.decode(_encoding(content), "replace")


def _encoding(content: bytes) -> str:
    return "utf-16" if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def _size(size: tuple[Any, Any] | None) -> tuple[int, int] | None:
    """(height, width) as whole numbers; None if there are none, or zeros, as some tools write."""
    try:
        height, width = (int(float(side)) for side in size or ())
    except (TypeError, ValueError, OverflowError):
        return None
    return (height, width) if height > 0 and width > 0 else None


def _decode(path: Path) -> None:
    """DataError unless the whole picture can be read; a JPEG is read at an eighth of its size."""
    try:
        with PIL.Image.open(path, formats=IMAGE_FORMATS) as image:
            image.draft("RGB", (1, 1))
            image.load()
    except Exception as error:  # whatever PIL's plug-ins raise on broken files
        raise DataError(f"{path}: the image is corrupt or cut short ({error}).") from error
