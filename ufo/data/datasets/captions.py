"""Captions in the Karpathy JSON format of BLIP (docs/published_system.md#captions).

Training: one sample per (image, caption) pair, so a caption is drawn uniformly over pairs.
Evaluation: one sample per image with all its reference captions.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ufo.data.datasets.base import ImageDataset, Strings, read_json, require, require_images
from ufo.data.datasets.coco_file import key_of, short
from ufo.data.errors import DataError
from ufo.data.pictures import image_size
from ufo.data.problems import DOUBTFUL, LEFT_OUT, Problems
from ufo.data.texts import usable_text
from ufo.types import Sample, Target

SHARED_ID = "image whose id another image has, too, so that results call it by its file"
_DELETE_PUNCTUATION = str.maketrans("", "", string.punctuation)


def clean_text(text: str) -> str:
    """`text` in lower case, without ASCII punctuation: "A  man's hat." becomes "a mans hat"."""
    return " ".join(text.translate(_DELETE_PUNCTUATION).split()).lower()


def one_line(text: str) -> str:
    """`text` without blanks at its ends, and one blank where there were several or a line break."""
    return " ".join(text.split())


class CaptionDataset(ImageDataset):
    """A Karpathy JSON list of `{image, caption[, image_id]}`, `caption` a text or a list of texts.

    Or Karpathy's own form for all splits together, as Flickr30k has it: `{"images": [{filename[, filepath],
    split, sentences: [{raw}]}]}`.

    Args:
        images: folder that the records' `image` paths start from.
        annotations: the JSON file.
        split: the images of a file that holds all splits, by exact name.
        references: COCO-caption JSON (`annotations` with image_id and caption) to take the
            reference captions of an evaluation from; by default they are the file's own.
        train: one sample per pair, with `text`; otherwise one per image.
        clean: training texts are lower-cased and lose their punctuation (`clean_text`); otherwise
            only blanks are put in order. References stay as they are: tokenising is the metric's business.

    An image's id is the record's `image_id` if that is a number, else the integer after the last
    "_" of the file's stem; images of an evaluation that have the same id are called by their files. Raises
    DataError if a file is missing or unusable, or, for evaluation, if an image has no reference or, with
    `references`, two have the same id.
    """

    provides = frozenset({"caption"})

    def __init__(
        self,
        images: str | Path,
        annotations: str | Path,
        *,
        split: str | None = None,
        references: str | Path | None = None,
        train: bool = False,
        clean: bool = True,
    ) -> None:
        self.images = require(images, "images", folder=True)
        path = require(annotations, "annotations")
        self.train = train
        self.problems = Problems(str(path), quiet=True)
        rows: dict[str, int] = {}
        ids: list[int | str] = []
        pairs: list[tuple[int, str]] = []
        for number, record in enumerate(_records(read_json(path), path, split)):
            name, captions = record["image"], record["caption"]
            row = rows.setdefault(name, len(rows))
            if row == len(ids):
                ids.append(image_id(name, record.get("image_id")))
            for text in captions if isinstance(captions, list) else [captions]:
                said, problem = usable_text(text, train)
                if not problem and not clean_text(said):
                    said, problem = "", "empty caption"
                if said:
                    pairs.append((row, said))
                if problem:
                    effect = DOUBTFUL if said else LEFT_OUT
                    self.problems.report(problem, f"record {number}, {name}", effect=effect)
        self._names, self._ids = Strings(rows), ids
        require_images(self.images, self._names)
        if not train and references is None:
            self._ids = self._told_apart(ids, list(rows))
        if not train and references is not None:
            pairs = self._read_references(require(references, "references"))
        pairs.sort(key=lambda pair: pair[0])  # stable: pairs of an image become neighbours
        self._row = np.asarray([row for row, _ in pairs], dtype=np.int64)
        texts: Iterable[str] = (text for _, text in pairs)
        if train:
            texts = map(clean_text if clean else one_line, texts)
        self._texts = Strings(texts)
        self._starts = np.searchsorted(self._row, np.arange(len(rows) + 1))
        self._portrait: Tensor | None = None
        if not train and (np.diff(self._starts) == 0).any():
            first = self._names[int(np.flatnonzero(np.diff(self._starts) == 0)[0])]
            raise DataError(
                f"{first} has no reference caption (image id {ids[rows[first]]}): evaluation needs "
                f"one for every image of {path}; write one, or set `references` to the matching file."
            )

    def _told_apart(self, ids: list[int | str], names: list[str]) -> list[int | str]:
        """The ids, in place of one that several images have the names of their files."""
        count = Counter(ids)
        for id, name in zip(ids, names, strict=True):
            if count[id] > 1:
                self.problems.report(SHARED_ID, f"{name}: {short(id)}", effect=DOUBTFUL)
        return [name if count[id] > 1 else id for id, name in zip(ids, names, strict=True)]

    def _read_references(self, path: Path) -> list[tuple[int, str]]:
        content = read_json(path)
        if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
            raise DataError(f"{path} is not a COCO-caption file: it has no list `annotations`.")
        rows = {key: row for row, key in enumerate(self._ids)}
        if len(rows) < len(self._ids):
            twice = next(key for key, count in Counter(self._ids).items() if count > 1)
            raise DataError(
                f"{self.problems.source}: two images have the same id {short(twice)}, by which {path} names "
                "its captions; number the images anew in both files."
            )
        pairs = []
        for number, a in enumerate(content["annotations"]):
            key = key_of(a, "image_id") if isinstance(a, dict) else None
            if key is None or key not in rows:
                continue
            said, problem = usable_text(a.get("caption"), train=False)
            if problem:
                effect = DOUBTFUL if said else LEFT_OUT
                self.problems.report(problem, f"reference {number}", effect=effect)
            if said:
                pairs.append((rows[key], said))
        return pairs

    def said(self, i: int) -> list[str]:
        """Nothing is asked with a text; what follows is the caption, at evaluation all of them."""
        rows = range(i, i + 1) if self.train else range(self._starts[i], self._starts[i + 1])
        return ["", *(self._texts[row] for row in rows)]

    def __len__(self) -> int:
        return len(self._texts) if self.train else len(self._ids)

    def __getitem__(self, i: int) -> Sample:
        image = self._picture(self._names[self._image_row(i)])
        if self.train:
            return {"image": image, "text": self._texts[i]}
        return {"image": image}

    def target(self, i: int) -> Target:
        row = self._image_row(i)
        captions = [self._texts[k] for k in range(self._starts[row], self._starts[row + 1])]
        return Target(
            id=i,
            size=self._size(row),
            image=str(self._image(i)),
            image_id=self._ids[row],
            captions=captions,
        )

    def portrait(self) -> Tensor:
        if self._portrait is None:
            sizes = [self._size(row) for row in range(len(self._ids))]
            tall = torch.tensor([width < height for height, width in sizes], dtype=torch.bool)
            self._portrait = tall[torch.from_numpy(self._row)] if self.train else tall
        return self._portrait

    def _size(self, row: int) -> tuple[int, int]:
        """(height, width); 1 x 1 if the file is unreadable, as no caption metric asks for it."""
        try:
            return image_size(self._file(self._names[row]))
        except DataError as error:
            self.problems.report("unreadable image", str(error))
            return (1, 1)

    def _image_row(self, i: int) -> int:
        if not 0 <= i < len(self):
            raise IndexError(i)
        return int(self._row[i]) if self.train else i

    def _image(self, i: int) -> Path:
        return self._file(self._names[self._image_row(i)])


def image_id(name: str, given: Any = None) -> int | str:
    """Id of a captioned image: `given` if that is a number, else from the file's name.

    "val2014/COCO_val2014_000000000042.jpg" has id 42.
    """
    given = key_of({"id": given}, "id")  # None for what is not an id
    if isinstance(given, int):
        return given
    tail = Path(name).stem.rsplit("_", 1)[-1]
    if tail.isascii() and tail.isdigit():
        return int(tail)
    return given if given is not None else name


def _records(content: Any, path: Path, split: str | None) -> list[dict[str, Any]]:
    """Records with `image`, `caption` and possibly `image_id`, of either form of the file."""
    if isinstance(content, dict) and isinstance(content.get("images"), list):
        content = _of_split(content["images"], split, path)
    elif split is not None:
        raise DataError(f"{path} is a list and has no splits: leave `split` out.")
    if not isinstance(content, list) or not content:
        raise DataError(f"{path} is not a Karpathy caption file: it must be a list of records.")
    for number, record in enumerate(content):
        ok = isinstance(record, dict) and isinstance(record.get("image"), str)
        if not ok or "caption" not in record:
            raise DataError(f"{path}: record {number} needs `image` (path) and `caption` (text or list).")
    return content


def _of_split(images: list[Any], split: str | None, path: Path) -> list[dict[str, Any]]:
    """The images of one split as records."""
    found, splits = [], set()
    for number, image in enumerate(images):
        try:
            name = "/".join(part for part in (image.get("filepath"), image["filename"]) if part)
            captions = [sentence["raw"] for sentence in image["sentences"]]
            splits.add(image["split"])
        except (AttributeError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}: image {number} needs `filename`, `split` and `sentences` with `raw`."
            ) from error
        if image["split"] == split:
            found.append({"image": name, "caption": captions})
    if not found:
        raise DataError(f"{path} has no split {split!r}; set `split` to one of: {', '.join(sorted(splits))}.")
    return found
