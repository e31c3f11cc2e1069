"""Conversations about images in LLaVA's format: a JSON list, or one record per line.

See docs/published_system.md#conversations.
A record is `{id, image, conversations: [{from: human | gpt, value}, ...]}`; `<image>` in a message marks the
image and is removed, since where it stands is the backbone's business.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ufo.data.datasets.base import ImageDataset, Strings, require, require_images
from ufo.data.errors import DataError
from ufo.data.json_lines import holds_lines, read_lines
from ufo.data.json_stream import EMPTY, json_records
from ufo.data.pictures import image_size
from ufo.data.problems import DOUBTFUL, Problems
from ufo.data.texts import usable_text
from ufo.types import Sample, Target

IMAGE = "<image>"
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


class ConversationDataset(ImageDataset):
    """Conversations of one or several turns, each about one image.

    Args:
        images: folder that the records' image names start from.
        annotations: a `.json` file with a list of records, or a `.jsonl` file with one per line.
        train: samples carry the whole `conversation`; otherwise the first question, targets its answer.
        rename: parts of image names and what to put in their place, if folders are called otherwise.
        max_turns: further turns are left out.
        max_characters: longer conversations (after `max_turns`) are left out.

    Records without an image, of a kind of image that can't be read, that do not begin with a question or have
    an empty answer are counted and left out, in evaluation too.

    Raises DataError if a file is missing or unusable or no record is left.
    """

    provides = frozenset({"conversation"})

    def __init__(
        self,
        images: str | Path,
        annotations: str | Path,
        *,
        train: bool = False,
        rename: Mapping[str, str] | None = None,
        max_turns: int | None = None,
        max_characters: int | None = None,
    ) -> None:
        self.images = require(images, "images", folder=True)
        path = require(annotations, "annotations")
        self.train = train
        self.problems = Problems(str(path), quiet=True)
        self._limits = max_turns, max_characters
        names: list[str] = []
        texts: list[str] = []
        for number, record in enumerate(_records(path)):
            said = self._usable(record, f"record {number}")
            if said:
                name = record["image"]
                for old, new in (rename or {}).items():
                    name = name.replace(old, new)
                names.append(name)
                texts.append(json.dumps(said, ensure_ascii=False))
        if not names:
            raise DataError(f"{path} has no conversation about an image ({self.problems.summary()}).")
        self._names, self._texts = Strings(names), Strings(texts)
        self._portrait: Tensor | None = None
        require_images(self.images, self._names)

    def _usable(self, record: Any, where: str) -> list[str] | None:
        """Question, answer, question, answer, ...; None, and counted, if the record can't be used."""
        problem, said = _read(record)
        max_turns, max_characters = self._limits
        said = said[: max_turns and 2 * max_turns]
        if not problem:
            checked = [usable_text(text, self.train) for text in said]
            said = [text for text, _ in checked]
            bad = next((kind for _, kind in checked if kind), None)
            problem = (bad or "") if self.train else ""
            if bad and not self.train:
                self.problems.report(bad, where, effect=DOUBTFUL)
        if not problem and not all(said):
            problem = "empty question or answer"
        if not problem and max_characters is not None and sum(map(len, said)) > max_characters:
            problem = "too long"
        if problem:
            self.problems.report(problem, where)
            return None
        return said

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, i: int) -> Sample:
        said = self._conversation(i)
        sample: Sample = {"image": self._picture(self._names[i]), "text": said[0]}
        return {**sample, "conversation": said} if self.train else sample

    def said(self, i: int) -> list[str]:
        return self._conversation(i)

    def target(self, i: int) -> Target:
        question, answer, *_ = self._conversation(i)
        return Target(
            id=i,
            size=self._size(i),
            image=str(self._file(self._names[i])),
            image_id=self._names[i],
            answers=[answer],
            text=question,
        )

    def portrait(self) -> Tensor:
        if self._portrait is None:
            sizes = (self._size(i) for i in range(len(self)))
            self._portrait = torch.tensor([width < height for height, width in sizes], dtype=torch.bool)
        return self._portrait

    def _conversation(self, i: int) -> list[str]:
        return json.loads(self._texts[i])

    def _size(self, i: int) -> tuple[int, int]:
        """(height, width); 1 x 1 if the file is unreadable, as no metric of answers asks for it."""
        try:
            return image_size(self._file(self._names[i]))
        except DataError as error:
            self.problems.report("unreadable image", str(error))
            return (1, 1)


def _records(path: Path) -> Iterator[Any]:
    if not holds_lines(path):
        for name, record in json_records(path):
            if name:
                raise DataError(f"{path} is not a list of conversations, but an object with {name!r}.")
            if record is not EMPTY:
                yield record
        return
    yield from (record for _, record in read_lines(path))


def _read(record: Any) -> tuple[str, list[str]]:
    """What is wrong with a record (or "") and its messages in turn, without `<image>`."""
    if not isinstance(record, dict) or not isinstance(record.get("conversations"), list):
        return "no conversation", []
    image = record.get("image")
    if not isinstance(image, str) or not image:
        return "no image", []
    if not image.lower().endswith(_SUFFIXES):
        return "image of another kind", []
    said = record["conversations"]
    if not all(isinstance(m, dict) and isinstance(m.get("value"), str) for m in said):
        return "message without a text", []
    roles = [m.get("from") for m in said]
    said, roles = said[: len(said) // 2 * 2], roles[: len(said) // 2 * 2]  # a last question has no answer
    if not said or roles != ["human", "gpt"] * (len(said) // 2):
        return "not a question and an answer in turn", []
    return "", [m["value"].replace(IMAGE, "").strip() for m in said]
