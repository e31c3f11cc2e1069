"""A COCO detection file as flat arrays, read record by record (docs/published_system.md#coco).

`n` images in file order, `m` usable annotations sorted by image: what `CocoDataset` looks things up in and
what its index on disk holds. Boxes are xyxy pixels of the original image.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ufo.data.datasets.base import Strings
from ufo.data.datasets.coco_file import (
    FEDERATED,
    LEAVING,
    ODD_AREA,
    Box,
    FileName,
    area_of,
    box_of,
    categories,
    check_record,
    flag,
    key_of,
    leaves_image,
    no_list,
    no_object,
    short,
    side_of,
    size_of,
    some_classes_only,
    stated_area,
    unusable,
)
from ufo.data.datasets.segmentations import Segmentations
from ufo.data.errors import DataError
from ufo.data.index import BESIDE, Arrays, times_of
from ufo.data.json_stream import EMPTY, json_records
from ufo.data.pictures import find_file
from ufo.data.problems import DOUBTFUL, LEFT_OUT, Problems

Records = Callable[[], Iterator[tuple[str, Any]]]

NO_MASK = "no segmentation"
PART = "part of a polygon without three whole points"
SAME_NAME = "category of the same name as another, taken as one class"
SHARED = "image with the file of another image"
MAX_SIDE = 8192
"""Pixels of the longest side of an image that is only known by its annotations."""
PROBLEM = "problem"
"""Key of an annotation record, of formats that know more: what is wrong with its category."""


class CocoReader:
    """Reads one file: images and categories first, then annotations, as the file may have any order.

    Args:
        path: the annotation file.
        images: folder of the images; their headers are read where the file gives no size.
        problems: where unusable annotations are counted.
        train: leave out what is not trained on; otherwise everything with a box is kept.
        classes: names of the categories to use, in label order; `None`: all, in file order.
        masks: also read segmentations.
        crowd: "ignore": marked as crowd is neither found nor missed; "objects": the mark is not read.
        name_key, name_parts: see `FileName`.
        records: gives the file's (section, record) anew at each call; by default as JSON.
    """

    def __init__(
        self,
        path: Path,
        images: Path,
        problems: Problems,
        *,
        train: bool,
        classes: Sequence[str] | None,
        masks: bool,
        crowd: str = "ignore",
        name_key: str = "file_name",
        name_parts: int | None = None,
        records: Records | None = None,
    ) -> None:
        self.records = records or partial(json_records, path)
        self.path, self.images, self.problems = path, images, problems
        self.file_name = FileName(name_key, name_parts)
        self.train, self.classes, self.masks = train, classes, masks
        self.crowd_counts = crowd == "objects"
        self.mask_problems = Problems(str(path), quiet=True)

    def read(self) -> tuple[Arrays, dict[str, Any]]:
        """The tables and what else is known. Raises DataError if the file is unusable.

        Arrays: `ids` int64 [n] (or `ids.ends`, `ids.bytes`: texts in JSON), `names.ends`, `names.bytes`,
        `sizes` int32 [n, 2] (height, width), `annotated` bool [n], `starts` int64 [n + 1], `labels` int32
        [m], `boxes` float32 [m, 4], `areas` float32 [m], `crowd` bool [m], and with masks those of
        `Segmentations`. Meta: `classes`, `category_ids` (the file's, in label order), `masks`,
        `problems`, `mask_problems` (of segmentations: they do not matter to a task that needs boxes),
        `images` (only if their headers were read).
        """
        self._read_images_and_categories()
        arrays, masks = self._read_annotations()
        first: dict[int, Any] = {}  # of several categories of one name results are written for the first
        for key, label in self.label_of.items():
            if label is not None and first.setdefault(label, key) != key:
                self.problems.report(SAME_NAME, f"{short(self.names[label])}: {short(key)}", effect=DOUBTFUL)
        meta = {
            "classes": list(self.names),
            "category_ids": [first[label] for label in range(len(self.names))],
            "masks": masks,
            BESIDE: times_of(self.unread),
            "problems": self.problems.record(),
            "mask_problems": self.mask_problems.record() if masks else {},
            "images": str(self.images) if "image without height and width" in self.problems.counts else None,
        }
        return {**self._image_arrays(), **arrays}, meta

    def _read_images_and_categories(self) -> None:
        self.rows: dict[Any, int] = {}  # by image id
        self.lost: set[Any] = set()  # ids of images that are left out
        self.unread: list[Path] = []  # images whose size could not be read
        self.unmeasured: dict[int, tuple[int, int]] = {}  # rows of images that nothing says the size of
        self._names: list[str] = []
        self.sizes: list[tuple[int, int]] = []
        found: list[dict[str, Any]] = []
        seen: set[str] = set()
        for section, record in self.records():
            if section not in ("images", "categories"):
                if {"images", "categories"} <= seen:
                    break
                continue
            seen.add(section)
            if record is EMPTY:
                continue
            check_record(section, record, self.path, self.file_name.key)
            if section == "images":
                self._add_image(record)
            else:
                found.append(record)
        for section in ("images", "categories"):
            if section not in seen:
                raise no_list(section, self.path)
        self.names, self.label_of = categories(found, self.classes, self.path)
        self._report_shared_files()
        if self.unmeasured:
            self._measure()

    def _add_image(self, record: dict[str, Any]) -> None:
        key, name = key_of(record, "id"), self.file_name(record)
        if key in self.rows:
            other = self._names[self.rows[key]]
            if name != other:  # boxes of one picture would land on the other
                raise DataError(
                    f"{self.path}: the images {other} and {name} have the same id {short(key)}; number the "
                    "images anew, and their annotations."
                )
            self.problems.report("image listed twice", f"image {short(key)}")
            return
        try:
            size = size_of(record, self.images, self.problems, name)
        except DataError as error:
            unreadable = side_of(record.get("height")) is None or side_of(record.get("width")) is None
            if not self.train and not unreadable:
                raise
            if unreadable:
                self.unread.append(find_file(self.images, name))
            effect = LEFT_OUT if self.train else DOUBTFUL
            self.problems.report("image without a usable size", str(error), effect=effect)
            if self.train:
                self.lost.add(key)
                return
            size = (1, 1)  # evaluation misses its objects, and must not lose those of all other images
            self.unmeasured[len(self._names)] = size
        if some_classes_only(record):
            self.problems.report(FEDERATED, name, effect=DOUBTFUL)
        self.rows[key] = len(self._names)
        self._names.append(name)
        self.sizes.append(size)

    def _report_shared_files(self) -> None:
        """Count images that have their file in common with another: one of them is probably misnamed."""
        if len(set(self._names)) == len(self._names):
            return
        first: dict[str, Any] = {}
        for key, name in zip(self.rows, self._names, strict=True):
            if first.setdefault(name, key) != key:
                place = f"{short(name)}: images {short(first[name])} and {short(key)}"
                self.problems.report(SHARED, place, effect=DOUBTFUL)

    def _measure(self) -> None:
        """Sizes of images that cannot be read: as large as their boxes need, or as their masks say."""
        for section, record in self.records():
            if section != "annotations" or not isinstance(record, dict):
                continue
            row = self.rows.get(key_of(record, "image_id"))
            if row not in self.unmeasured:
                continue
            x, y, w, h = box_of(record) or (0, 0, 0, 0)
            corner = (math.ceil(y + h), math.ceil(x + w))
            mask = record.get("segmentation")
            said = mask.get("size") if isinstance(mask, dict) else None
            if isinstance(said, list) and len(said) == 2 and all(side_of(side) for side in said):
                corner = (int(said[0]), int(said[1]))
            height, width = self.unmeasured[row]
            self.unmeasured[row] = (
                min(max(height, corner[0]), MAX_SIDE),
                min(max(width, corner[1]), MAX_SIDE),
            )
        for row, size in self.unmeasured.items():
            self.sizes[row] = size

    def _image_arrays(self) -> Arrays:
        names = Strings(self._names)
        ids = list(self.rows)
        if all(type(i) is int and abs(i) < 2**63 for i in ids):
            arrays: Arrays = {"ids": np.asarray(ids, dtype=np.int64)}
        else:
            texts = Strings(json.dumps(i) for i in ids)
            arrays = {"ids.ends": texts.ends, "ids.bytes": texts.bytes}
        arrays |= {"names.ends": names.ends, "names.bytes": names.bytes}
        return {**arrays, "sizes": np.asarray(self.sizes, dtype=np.int32).reshape(-1, 2)}

    def _read_annotations(self) -> tuple[Arrays, bool]:
        """Tables of the annotations, sorted by image, and whether the file has segmentations."""
        rows, labels, crowd = array("i"), array("i"), array("b")
        boxes, covered = array("f"), array("f")
        segmentations, without = Segmentations(), Segmentless()
        self.annotated = np.zeros(len(self.rows), dtype=bool)
        for record, row, label, (x, y, w, h) in self._usable():
            mask = record.get("segmentation") if self.masks else None
            if self.masks:
                problem = segmentations.append(mask, self.sizes[row])
                if problem and mask:
                    self.mask_problems.report(problem, where(record))
                elif problem:
                    without.add(record)
                elif lost := segmentations.lost:
                    self.mask_problems.report(PART, where(record), number=lost)
            marked = not self.crowd_counts and flag(record, "iscrowd")
            if marked:
                self.problems.report("marked as crowd", where(record))
            rows.append(row)
            labels.append(label)
            boxes.extend((x, y, x + w, y + h))
            covered.append(self._area(record, (x, y, w, h), self.sizes[row]))
            crowd.append(marked)
        table = np.frombuffer(rows, dtype=np.int32) if rows else np.zeros(0, np.int32)
        order = np.argsort(table, kind="stable")
        arrays = {
            "annotated": self.annotated,
            "starts": np.searchsorted(table[order], np.arange(len(self.rows) + 1)).astype(np.int64),
            "labels": np.asarray(labels, dtype=np.int32)[order],
            "boxes": np.asarray(boxes, dtype=np.float32).reshape(-1, 4)[order],
            "areas": np.asarray(covered, dtype=np.float32)[order],
            "crowd": np.asarray(crowd, dtype=bool)[order],
        }
        if not (self.masks and self._segmented):
            return arrays, False
        without.report(self.mask_problems)
        return {**arrays, **segmentations.arrays(order)}, True

    def _area(self, record: dict[str, Any], box: Box, size: tuple[int, int]) -> float:
        """How large an object is; a training does not ask, and draws no mask for it."""
        if record.get("area") is not None and stated_area(record) is None and not self.train:
            self.problems.report(ODD_AREA, where(record), effect=DOUBTFUL)
        return area_of(record, box, None if self.train else size)

    def _usable(self) -> Iterator[tuple[dict[str, Any], int, int, tuple[float, float, float, float]]]:
        """Annotations to keep, with image row, label and box; counts what is wrong with any."""
        ids, self._segmented, seen = Ids(), False, False
        rows, label_of, sizes, annotated = self.rows, self.label_of, self.sizes, self.annotated
        for section, record in self.records():
            if section != "annotations":
                continue
            seen = True
            if record is EMPTY:
                continue
            if not isinstance(record, dict):
                raise no_object(section, self.path, record)
            row = rows.get(key_of(record, "image_id"))
            label = label_of.get(key_of(record, "category_id"), -1)
            self._segmented = self._segmented or bool(record.get("segmentation"))
            if label is None:  # a category of the file that `classes` leaves out
                continue
            box, used = box_of(record), False
            if row is None:
                lost = key_of(record, "image_id") in self.lost
                problem = None if lost else "annotation of an image that is not in the file"
            elif label < 0:
                problem = record.get(PROBLEM) or "category that is not in the file"
            else:
                annotated[row] = True
                problem = "annotation without a box" if box is None else unusable(record, box, sizes[row])
                if box is not None and not problem and leaves_image(box, sizes[row]):
                    self.problems.report(LEAVING, where(record), effect=DOUBTFUL)
                # Evaluation keeps what COCOeval would count, and that is everything with a box.
                if used := box is not None and not (problem and self.train):
                    yield record, row, label, box
            if problem:
                self.problems.report(problem, where(record), effect=DOUBTFUL if used else LEFT_OUT)
            ids.add(key_of(record, "id"))
        if not seen:
            raise no_list("annotations", self.path)
        ids.report(self.problems)


class Ids:
    """Finds annotation ids that are used twice, in eight bytes for each."""

    def __init__(self) -> None:
        self._numbers = array("q")
        self._others: set[Any] = set()
        self._twice: list[Any] = []

    def add(self, key: Any) -> None:
        if type(key) is int and abs(key) < 2**63:
            self._numbers.append(key)
        elif key in self._others:
            self._twice.append(key)
        else:
            self._others.add(key)

    def report(self, problems: Problems) -> None:
        numbers = np.sort(np.asarray(self._numbers, dtype=np.int64))
        again = numbers[1:][numbers[1:] == numbers[:-1]]
        for key in [*self._twice, *again.tolist()]:
            problems.report("annotation id used twice", f"annotation {short(key)}", effect=DOUBTFUL)


class Segmentless:
    """Annotations without segmentation: a fault only if others of the file have one."""

    def __init__(self) -> None:
        self.count, self.first = 0, ""

    def add(self, record: dict[str, Any]) -> None:
        self.first = self.first or where(record)
        self.count += 1

    def report(self, problems: Problems) -> None:
        problems.report(NO_MASK, self.first, number=self.count)


def where(record: dict[str, Any]) -> str:
    """An annotation, for a message."""
    return f"annotation {short(record.get('id'))} of image {short(record.get('image_id'))}"
