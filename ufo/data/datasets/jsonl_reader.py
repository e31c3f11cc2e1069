"""Reads the lines of a JSONL file: what of a record is a sample, what is left out, and why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ufo.data.datasets.base import Strings
from ufo.data.datasets.coco_file import LEAVING, box_of, leaves_image, side_of, unusable
from ufo.data.datasets.segmentations import Segmentations
from ufo.data.errors import DataError
from ufo.data.index import BESIDE, Arrays, times_of
from ufo.data.json_lines import read_lines
from ufo.data.pictures import LOSSY, MAX_PIXELS, find_file, find_map, image_sizes, is_file, map_size
from ufo.data.problems import DOUBTFUL, Problems
from ufo.data.texts import usable_text

MASK = "<mask>"
IMAGE = "<image>"
SPEAKERS = {"human": 0, "user": 0, "gpt": 1, "assistant": 1}
TEXTS = ("names", "texts", "turns", "files")  # of every sample
USES = ("expressions", "conversations")


class FileError(DataError):
    """It is a file beside the record that is wrong."""

    def __init__(self, message: str, *files: Path) -> None:
        super().__init__(message)
        self.files = list(files)


class Reader:
    """The file as flat arrays, one entry per sample; `lines` says where each comes from."""

    def __init__(self, path: Path, images: Path, use: str, train: bool) -> None:
        self.path, self.images, self.use, self.train = path, images, use, train
        self.problems = Problems(str(path), quiet=True)
        self.unread: list[Path] = []  # images and mask files that could not be used, and may be mended

    def read(self) -> tuple[Arrays, dict[str, Any]]:
        samples: list[dict[str, Any]] = []
        segmentations, starts = Segmentations(), [0]
        for line, record in read_lines(self.path):
            try:
                found = list(self._samples(record))
            except DataError as error:
                self.unread += error.files if isinstance(error, FileError) else []
                cause = f" ({error.__cause__})" if error.__cause__ else ""
                if not self.train:
                    raise DataError(f"{self.path}, line {line}: {error}{cause}") from error
                self.problems.report(str(error).rstrip("."), f"line {line}{cause}")
                continue
            for sample in found:
                for mask in sample.pop("masks"):
                    segmentations.append(mask, sample["size"])
                starts.append(len(segmentations))
                samples.append({**sample, "line": line})
        self._report_boxes(samples)
        texts = {name: Strings(sample[name] for sample in samples) for name in TEXTS}
        arrays: Arrays = {f"{name}.ends": strings.ends for name, strings in texts.items()}
        arrays |= {f"{name}.bytes": strings.bytes for name, strings in texts.items()}
        arrays |= segmentations.arrays(np.arange(len(segmentations)))
        arrays |= {
            "starts": np.array(starts, dtype=np.int64),
            "lines": np.array([sample["line"] for sample in samples], dtype=np.int64),
            "sizes": np.array([sample["size"] for sample in samples], dtype=np.int32).reshape(-1, 2),
            "boxes": np.array([sample["box"] for sample in samples], dtype=np.float32).reshape(-1, 4),
            "sentence": np.array([bool(sample["sentence"]) for sample in samples], dtype=bool),
        }
        meta = {"provides": self._provides(samples), "problems": self.problems.record()}
        return arrays, {**meta, BESIDE: times_of(self.unread)}

    def _provides(self, samples: list[dict[str, Any]]) -> list[str]:
        if self.use == "conversations":
            return ["conversation"]
        found = ["expression", "boxes"]  # around the mask if the record has none
        if all(sample["masked"] for sample in samples):
            found.append("masks")
        if all(sample["sentence"] is not None for sample in samples):
            found.append("sentence")
        return found

    def _report_boxes(self, samples: list[dict[str, Any]]) -> None:
        """Boxes among masks are no error, but the file then serves boxes only."""
        if any(sample["masked"] for sample in samples):
            for sample in samples:
                if not sample["masked"]:
                    kind = "record with a box and no mask, so that the file serves no segmentation"
                    self.problems.report(kind, f"line {sample['line']}")

    def _samples(self, record: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """What a record is made into. Raises DataError: what is wrong with it, in one sentence."""
        name = record.get("image")
        if not isinstance(name, str) or not name:
            raise DataError("a record needs `image`, the file name of its picture.")
        # an answer may hold <mask>: it says which masks it means
        said = enumerate(_conversation(record))
        turns = [self._readable(text, marks=number % 2 == 1) for number, text in said]
        mask = self._mask_name(record)
        size = _size_of(record, find_file(self.images, name), mask and self.images / mask)
        sample = {"names": name, "size": size, "turns": "[]", "files": "", "masks": [], "masked": False}
        sample |= {"sentence": record.get("sentence"), "box": (np.nan,) * 4}
        if self.use == "conversations":
            if not turns:
                raise DataError("a record needs `conversations` (or set `use: expressions`).")
            yield {**sample, "texts": turns[0], "turns": json.dumps(turns)}
            return
        box = _box_of(record)
        sides = box_of(record) or (0, 0, 0, 0)
        if not np.isnan(box[0]) and (problem := unusable({}, sides, size)):
            self._doubt(f"{problem}.", name)
        elif leaves_image(sides, size):
            self.problems.report(LEAVING, name, effect=DOUBTFUL)
        masks = [] if mask else self._masks(record, size)
        sample |= {"box": box, "files": mask, "masked": masks is not None}
        if masks is None and np.isnan(box[0]):
            raise DataError("a record needs `masks`, `mask` or `bbox` (or set `use: conversations`).")
        if masks == [] and not mask and np.isnan(box[0]):
            kind = "record with an empty list of masks, whose text means nothing in its image"
            self.problems.report(kind, name, effect=DOUBTFUL)
        if not turns:
            text = record.get("text")
            if not isinstance(text, str) or not text.strip():
                raise DataError("a record needs `text` or `conversations`.")
            yield {**sample, "texts": self._readable(text).strip(), "masks": masks or []}
            return
        yield from _questions(turns, masks, sample)

    def _doubt(self, problem: str, where: str) -> None:
        """What training cannot use is left out there; evaluation has it, and counts it."""
        if self.train:
            raise DataError(problem)
        self.problems.report(problem.rstrip("."), where, effect=DOUBTFUL)

    def _readable(self, text: str, marks: bool = False) -> str:
        """The text as a model can read it. DataError in training for one that it cannot."""
        said, problem = usable_text(text, self.train, marks)
        if problem and self.train:
            raise DataError(f"{problem}.")
        if problem:
            self.problems.report(problem, said[:40], effect=DOUBTFUL)
        return said

    def _mask_name(self, record: dict[str, Any]) -> str:
        """Where the record's mask file is, below the image folder; empty if it has none."""
        name = record.get("mask")
        if not name or self.use == "conversations":
            return ""
        if not isinstance(name, str):
            raise DataError("`mask` is the file name of a picture.")
        found = find_map(self.images, name)
        if not is_file(found):
            raise FileError("its mask file is missing.", found) from DataError(str(self.images / name))
        if found.suffix.lower() in LOSSY:
            self.problems.report("object mask in a lossy format", name, effect=DOUBTFUL)
        if found == self.images / name:
            return name
        where = f"{name}: {found.name}"
        self.problems.report("file found under another spelling of its name", where, effect=DOUBTFUL)
        return found.relative_to(self.images).as_posix()

    def _masks(self, record: dict[str, Any], size: tuple[int, int]) -> list[Any] | None:
        """The record's segmentations, checked; None if it has none."""
        masks = record.get("masks")
        if masks is None:
            return None
        if not isinstance(masks, list):
            raise DataError("`masks` is a list with one COCO segmentation (polygons or RLE) per mask.")
        for number, mask in enumerate(masks, start=1):
            if problem := Segmentations().append(mask, size):
                raise DataError(f"mask {number} cannot be used: {problem}.")
        return masks


def _conversation(record: dict[str, Any]) -> list[str]:
    """Question, answer, question, answer, ...; empty if the record has no conversation."""
    turns = record.get("conversations")
    if turns is None:
        return []
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise DataError('`conversations` is a list of {"from": "human" or "gpt", "value": text}.')
    if not turns or len(turns) % 2:
        raise DataError("a conversation is made of questions and answers; one of them is missing.")
    for number, turn in enumerate(turns):
        if SPEAKERS.get(str(turn.get("from"))[:20]) != number % 2 or not isinstance(turn.get("value"), str):
            speaker = ("human", "gpt")[number % 2]
            raise DataError(f"turn {number + 1} of the conversation must be from {speaker!r} with a `value`.")
    texts = [turn["value"].replace(IMAGE, "").strip() for turn in turns]
    if not all(texts):
        raise DataError("a turn of the conversation is empty.")
    return texts


def _questions(turns: list[str], masks: list[Any] | None, sample: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One sample for every question that is answered with masks."""
    counts = [answer.count(MASK) for answer in turns[1::2]]
    by_file = bool(sample["files"])
    given = sum(counts) if by_file else len(masks or [])
    if masks is not None and (sum(counts) != given or not sum(counts) or (by_file and sum(counts) > 1)):
        raise DataError(
            f"the answers have {sum(counts)} {MASK}, the record has {1 if by_file else given} masks; write "
            f"{MASK} once for each mask, in its order."
        )
    if masks is None:  # a box: of the only question
        if len(turns) > 2:
            raise DataError("a record with `bbox` is about one question; split the conversation.")
        counts = [1]
    first = 0
    for question, count in zip(turns[::2], counts, strict=True):
        if count:
            yield {**sample, "texts": question, "masks": (masks or [])[first : first + count]}
        first += count


def _box_of(record: dict[str, Any]) -> tuple[float, ...]:
    if record.get("bbox") is None:
        return (np.nan,) * 4
    box = box_of(record)
    if box is None:
        raise DataError("`bbox` is four numbers: x, y, width, height in pixels.")
    x, y, width, height = box
    return x, y, x + width, y + height


def _size_of(record: dict[str, Any], path: Path, mask: str | Path) -> tuple[int, int]:
    """(height, width) of a record's image, in the orientation that fits its mask file, if it has one."""
    height, width = side_of(record.get("height")), side_of(record.get("width"))
    if height and width:
        if height * width > MAX_PIXELS:
            raise DataError(f"`height` and `width` are more than the {MAX_PIXELS} pixels allowed.")
        sizes = [(height, width)]
    else:
        try:
            sizes = image_sizes(path)
        except DataError as error:
            raise FileError("its image is missing or broken.", path) from error
    if not mask:
        return sizes[0]
    size = map_size(mask)
    if size not in sizes:
        cause = DataError(f"{size} and {sizes[0]}, height and width")
        raise FileError("its mask file has another size than its image.", path, Path(mask)) from cause
    return size
