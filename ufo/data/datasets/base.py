"""What all data sets share: JSON with clear errors.

A data set is map-style and memory-light: it holds numpy arrays and packed text instead of the
parsed JSON, and decodes images, polygons and RLE only when a sample is asked for.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from ufo.data.errors import DataError
from ufo.data.json_stream import TwiceError, json_error, lines_error, loads
from ufo.data.pictures import find_file, is_file, near, read_image
from ufo.data.problems import DOUBTFUL, Problems
from ufo.types import Sample, Target


class Strings:
    """An immutable list of texts in two flat arrays.

    A Python list of a million `str` costs 60 bytes each and, because reading one writes its
    reference count, is copied page by page into every forked worker.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        self.ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        self.bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)

    @classmethod
    def of(cls, ends: np.ndarray, content: np.ndarray) -> Strings:
        """The list whose arrays (`ends` int64 [len + 1], `bytes` uint8) are these."""
        strings = cls.__new__(cls)
        strings.ends, strings.bytes = ends, content
        return strings

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, i: int) -> str:
        if not 0 <= i < len(self):
            raise IndexError(i)
        start, end = self.ends[i], self.ends[i + 1]
        return self.bytes[start:end].tobytes().decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))


class ImageDataset(Dataset[Sample], ABC):
    """The interface of every data set: what the data module and the task mixer rely on.

    `classes` are the names behind `labels` and `semantic`. `provides` says what it knows about its images
    (`ufo.types.ANNOTATIONS`): it serves every task that needs no more.
    `wordings` are other ways to say the same classes: a training batch uses one of them.
    `problems` counts and names what is left out (`ufo.data.problems`).
    """

    classes: tuple[str, ...] = ()
    wordings: tuple[tuple[str, ...], ...] = ()
    provides: frozenset[str] = frozenset()
    problems: Problems
    images: Path  # the folder of the images

    def serve(self, needs: frozenset[str], *, pasting: bool = False) -> None:
        """Get ready for a task and log what is left out: called once, when a source has built its data.

        Args:
            needs: the annotations that the task needs (`ufo.types.ANNOTATIONS`); an object is left out only
                if one of these is unusable.
            pasting: masks are used if there are any, since the transform pastes objects.
        """
        self.problems.announce()

    def said(self, i: int) -> list[str]:
        """The text that sample `i` asks with and, of a conversation, what follows; no image is decoded.

        One empty text where a format has none.
        """
        return [""]

    def _file(self, name: str) -> Path:
        """Where the image that the annotations call `name` is; counted if that is another spelling."""
        found = find_file(self.images, name)
        if found != self.images / name:
            where = f"{name}: {found.name}"
            self.problems.report_once("file found under another spelling of its name", where, effect=DOUBTFUL)
        return found

    def _picture(self, name: str, size: tuple[int, int] | None = None) -> tv_tensors.Image:
        """An image of the annotations; what the decoder changes is counted. Raises DataError."""

        def say(kind: str, where: str) -> None:
            self.problems.report_once(kind, where, effect=DOUBTFUL)

        return read_image(self._file(name), size, say=say)

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, i: int) -> Sample:
        """Decode sample `i`; for evaluation it holds what a model may see, `target` has the rest.

        Raises DataError, naming the file and the reason, if it can't be used.
        """

    @abstractmethod
    def target(self, i: int) -> Target:
        """Ground truth of sample `i` in original pixels; the image need not be readable."""

    def files(self) -> list[str]:
        """The image files that records name, below `images`; empty where a format cannot tell."""
        names = getattr(self, "_names", ())
        return [names[i] for i in range(len(names))]

    @abstractmethod
    def portrait(self) -> Tensor:
        """bool [len]: width < height, from the annotations or the image headers."""


def require(path: str | Path, argument: str, *, folder: bool = False) -> Path:
    """`path`, or DataError in one sentence that names it and the data set's argument to change."""
    path = Path(path)
    if path.is_dir() if folder else path.is_file():
        return path
    what = "folder" if folder else "file"
    state = f"is not a {what}" if path.exists() else "does not exist"
    raise DataError(
        f"The {argument} {what} {path} {state}: set this data set's `{argument}` (or the data "
        "folder it is built from) to where it is."
    )


def prepared(path: str | Path, argument: str, name: str) -> Path:
    """`path`, a file that `ufo data prepare <name>` writes, or DataError that says so."""
    if not Path(path).is_file():
        raise DataError(
            f"The {argument} file {path} does not exist: run `ufo data prepare {name}`, which writes it, or "
            f"set this data set's `{argument}` to where it is."
        )
    return Path(path)


def stamp(path: Path) -> list[Any]:
    """What tells whether a file has changed, as JSON can hold it: path, size, time of its last change."""
    stat = path.stat()
    return [str(path), stat.st_size, stat.st_mtime_ns]


def require_images(images: Path, names: Strings) -> None:
    """DataError if none of the first images is in the folder: then the folder is the wrong one."""
    first = [images / names[i] for i in range(min(len(names), 10))]
    if first and not any(is_file(find_file(images, names[i])) for i in range(len(first))):
        state = "is not a file" if os.path.exists(first[0]) else "does not exist"
        raise DataError(
            f"The annotations name images such as {names[0]}, but {first[0]} {state}: set "
            f"this data set's `images` to the folder those names start from.{near(first[0])}"
        )


def read_json(path: str | Path) -> Any:
    """Parsed JSON, or DataError with the file and the position of what is wrong."""
    try:
        return loads(Path(path).read_bytes(), once=True)
    except TwiceError as error:
        raise DataError(f"{path}: {error}.") from None
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and error.doc[error.pos] == "{":
            raise lines_error(path) from None
        # Nothing but white space left: the writer was interrupted or the disk was full.
        cut = not error.doc[error.pos :].strip() or error.msg.startswith("Unterminated string")
        raise json_error(path, error.msg, cut, error.lineno, error.colno, error.pos) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text at byte {error.start} ({error.reason}): save it as UTF-8."
        ) from error
    except RecursionError as error:
        raise DataError(f"{path} is nested too deeply to be an annotation file.") from error
