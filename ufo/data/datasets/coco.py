"""COCO-format detection and instance segmentation (datasets.md, section 2).

Labels are ranks of the categories in the JSON's order (ids may be sparse) or in a list of names.
Boxes are xyxy in pixels of the original image; masks stay polygons or RLE until asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import BoolTensor
from torchvision import tv_tensors

from ufo.data.datasets.base import (
    ImageDataset,
    Problems,
    Strings,
    read_image,
    read_json,
    require,
    require_images,
)
from ufo.data.datasets.coco_file import (
    Box,
    area_of,
    box_of,
    categories,
    coco_sections,
    key_of,
    size_of,
    unusable,
)
from ufo.data.datasets.segmentations import Segmentations, decode_masks, empty_rle
from ufo.types import Sample, Target


class CocoDataset(ImageDataset):
    """A COCO detection file and its image folder.

    Args:
        images: folder that the JSON's file names start from.
        annotations: JSON with `images`, `annotations` and `categories`.
        train: samples carry boxes, labels and masks, without crowd and unusable annotations, and
            images without any annotation or with a side below `min_size` are left out. Otherwise
            every image of the file is there, and samples are images alone.
        classes: names of the categories to use, in label order; by default all, in file order.
        masks: also read segmentations; without, only detection is served.
        min_size: smallest side in pixels of a training image.

    A `target` keeps what COCOeval counts: also tiny annotations and those marked as ignored. An
    instance without a usable segmentation counts as crowd if masks are read: neither found nor
    missed. Raises DataError if a path is missing or the JSON is unusable or lacks one of `classes`.
    """

    def __init__(
        self,
        images: str | Path,
        annotations: str | Path,
        *,
        train: bool = False,
        classes: Sequence[str] | None = None,
        masks: bool = True,
        min_size: int = 32,
    ) -> None:
        self.images = require(images, "images", folder=True)
        path = require(annotations, "annotations")
        self.train = train
        self.problems = Problems(str(path))
        content = coco_sections(read_json(path), path)
        self.classes, label_of = categories(content["categories"], classes, path)
        kept = self._read_images(content["images"])
        self._read_annotations(content["annotations"], kept, label_of, masks)
        if train:
            self._leave_out(content["annotations"], kept, label_of, min_size)
        else:
            self._indices = np.arange(len(self._ids))
        require_images(self.images, self._names)
        self.tasks = frozenset({"detection"} | ({"instance_segmentation"} if self.masks else set()))
        self.problems.close()

    def _read_images(self, records: list[dict[str, Any]]) -> dict[Any, int]:
        """Fill the image table; returns row by image id."""
        rows: dict[Any, int] = {}
        names, sizes = [], []
        for record in records:
            where = f"image {record.get('id')}"
            if record["id"] in rows:
                self.problems.report("image id used twice", where)
                continue
            rows[record["id"]] = len(names)
            names.append(record["file_name"])
            sizes.append(size_of(record, self.images, self.problems))
        self._names = Strings(names)
        self._ids = list(rows)
        self._sizes = np.asarray(sizes, dtype=np.int64).reshape(-1, 2)
        return rows

    def _read_annotations(
        self,
        records: list[dict[str, Any]],
        rows: dict[Any, int],
        label_of: dict[Any, int | None],
        masks: bool,
    ) -> None:
        """Fill the annotation table, ordered by image; unusable annotations are counted."""
        masks = masks and any(record.get("segmentation") for record in records)
        segmentations = Segmentations()
        table: list[tuple[float, ...]] = []
        for record, row, label, box in self._usable(records, rows, label_of):
            crowd = bool(record.get("iscrowd", 0))
            if masks:
                problem = segmentations.append(record.get("segmentation"), self._size(row))
                if problem:
                    self.problems.report(problem, _where(record))
                    crowd = True  # without a usable mask it is neither found nor missed
            table.append((row, label, *box, area_of(record, box), crowd))
        values = np.asarray(table, dtype=np.float64).reshape(-1, 8)
        # row of the sorted table -> place in `_segmentations`
        self._order = np.argsort(values[:, 0], kind="stable")
        values = values[self._order]
        self._starts = np.searchsorted(values[:, 0], np.arange(len(rows) + 1))
        self._labels = values[:, 1].astype(np.int64)
        corner = values[:, 2:4]
        self._boxes = np.hstack([corner, corner + values[:, 4:6]]).astype(np.float32)
        self._areas = values[:, 6].astype(np.float32)
        self._crowd = values[:, 7].astype(bool)
        self.masks, self._segmentations = masks, segmentations

    def _usable(
        self, records: list[dict[str, Any]], rows: dict[Any, int], label_of: dict[Any, int | None]
    ) -> Iterator[tuple[dict[str, Any], int, int, Box]]:
        """Annotations to keep, with image row, label and box; counts what is wrong with any."""
        ids: set[Any] = set()
        for record in records:
            row = rows.get(key_of(record, "image_id"))
            label = label_of.get(key_of(record, "category_id"), -1)
            box = box_of(record)
            if label is None:  # a category of the file that `classes` leaves out
                continue
            if row is None:
                problem = "annotation of an image that is not in the file"
            elif label < 0:
                problem = "category that is not in the file"
            elif box is None:
                problem = "annotation without a box"
            else:
                problem = unusable(record, box, self._size(row))
                # Evaluation keeps what COCOeval would count, and that is everything with a box.
                if not (problem and self.train):
                    yield record, row, label, box
            if problem:
                self.problems.report(problem, _where(record))
            if (key := key_of(record, "id")) in ids:
                self.problems.report("annotation id used twice", _where(record))
            ids.add(key)

    def _leave_out(
        self,
        records: list[dict[str, Any]],
        rows: dict[Any, int],
        label_of: dict[Any, int | None],
        min_size: int,
    ) -> None:
        """Training images have any annotation of a class and no side below `min_size`."""
        annotated = np.zeros(len(rows), dtype=bool)
        for record in records:
            row = rows.get(key_of(record, "image_id"))
            if row is not None and label_of.get(key_of(record, "category_id")) is not None:
                annotated[row] = True
        self._indices = np.flatnonzero(annotated & (self._sizes.min(axis=1) >= min_size))

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, i: int) -> Sample:
        row = self._row(i)
        height, width = size = self._size(row)
        image = read_image(self.images / self._names[row], size)
        if not self.train:
            return {"image": image}
        chosen = np.flatnonzero(~self._crowd[self._slice(row)]) + self._starts[row]
        sample: Sample = {"image": image}
        if self.masks:
            masks = decode_masks(self._rles(chosen, size), size)
            visible = masks.flatten(1).any(1).bool().numpy()  # torch: any of uint8 is uint8
            if not visible.all():
                number = chosen[~visible][0] - self._starts[row]
                self.problems.report("empty mask", f"object {number} of {self._names[row]}")
                masks, chosen = masks[visible], chosen[visible]
            sample["masks"] = tv_tensors.Mask(masks)
        boxes = self._boxes[chosen].clip(0, [width, height, width, height])
        sample["boxes"] = tv_tensors.BoundingBoxes(
            torch.from_numpy(boxes.astype(np.float32)),
            format=tv_tensors.BoundingBoxFormat.XYXY,
            canvas_size=size,
        )
        sample["labels"] = torch.from_numpy(self._labels[chosen].astype(np.int64))
        return sample

    def target(self, i: int) -> Target:
        row = self._row(i)
        size, here = self._size(row), self._slice(row)
        return Target(
            id=i,
            size=size,
            image=str(self.images / self._names[row]),
            image_id=self._ids[row],
            boxes=torch.from_numpy(self._boxes[here].copy()),
            labels=torch.from_numpy(self._labels[here].copy()),
            masks=self._rles(here, size) if self.masks else None,
            iscrowd=torch.from_numpy(self._crowd[here].copy()),
            area=torch.from_numpy(self._areas[here].copy()),
        )

    def portrait(self) -> BoolTensor:
        sizes = self._sizes[self._indices]
        return torch.from_numpy(sizes[:, 1] < sizes[:, 0])

    def _row(self, i: int) -> int:
        if not 0 <= i < len(self):
            raise IndexError(i)
        return int(self._indices[i])

    def _size(self, row: int) -> tuple[int, int]:
        return int(self._sizes[row, 0]), int(self._sizes[row, 1])

    def _slice(self, row: int) -> slice:
        return slice(int(self._starts[row]), int(self._starts[row + 1]))

    def _rles(self, annotations: Any, size: tuple[int, int]) -> list[dict[str, Any]]:
        """RLE of some annotations (slice or indices) of an image of `size`; empty if unusable."""
        places = self._order[annotations].tolist()
        return [self._segmentations.rle(place, size) or empty_rle(size) for place in places]


def _where(record: dict[str, Any]) -> str:
    return f"annotation {record.get('id')} of image {record.get('image_id')}"
