"""COCO-format detection and instance segmentation (docs/published_system.md#coco).

Labels are ranks of the categories in the JSON's order (ids may be sparse) or in a list of names.
Boxes are xyxy in pixels of the original image; masks stay polygons or RLE until asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

from ufo.data.datasets.base import ImageDataset, Strings, require, require_images
from ufo.data.datasets.coco_table import NO_MASK, CocoReader, Records
from ufo.data.datasets.naming import part_wordings, read_names, renamed
from ufo.data.datasets.segmentations import (
    Segmentations,
    areas,
    decode_masks,
    empty_rle,
    fill_box,
    missing,
)
from ufo.data.errors import DataError
from ufo.data.index import Arrays, Index, cached
from ufo.data.json_stream import json_records
from ufo.data.problems import EXAMPLES, Problems
from ufo.types import Sample, Target

CROWD = ("ignore", "objects")


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
        crowd: what is marked as crowd: "ignore" (not trained on; neither found nor missed) or "objects" like
            the others: some label tools mark every brush mask so.
        min_size: smallest side in pixels of a training image.
        name_key, name_parts: the image record's key that says where its file is, and how many of the
            last parts of that path are below `images`; see `FileName`.
        rename: what to call the classes instead, in label order (names, or a file with one per line).
        separator: stands between object and part in category names ("car:wheel"); the classes are
            then called "car wheel" and, in `wordings`, "the wheel of the car".
        exclude: file names of images to leave out, because they are known to be unusable.

    A `target` keeps what COCOeval counts: also tiny annotations and those marked as ignored. For a task
    that needs masks, an instance without a usable one counts as crowd: neither found nor missed; a
    task that needs boxes has it as any other. Raises DataError if a path is missing, the JSON is
    unusable or lacks one of `classes`, or two images have one id.
    The tables of a large JSON are kept in an index on disk (`ufo.data.index`).
    """

    provides = frozenset({"boxes", "labels", "masks"})

    def __init__(
        self,
        images: str | Path,
        annotations: str | Path,
        *,
        train: bool = False,
        classes: Sequence[str] | None = None,
        masks: bool = True,
        crowd: str = "ignore",
        min_size: int = 32,
        name_key: str = "file_name",
        name_parts: int | None = None,
        rename: Sequence[str] | str | Path | None = None,
        separator: str | None = None,
        exclude: Sequence[str] = (),
    ) -> None:
        self.images = require(images, "images", folder=True)
        path = self._annotation_file(annotations)
        self.train = train
        if crowd not in CROWD:
            raise DataError(f"`crowd` is one of {', '.join(CROWD)}, not {crowd!r}.")
        if not isinstance(min_size, (int, float)):
            raise DataError(f"`min_size` is a number of pixels, not {min_size!r}.")
        self._index, self.problems = _read(
            path,
            self.images,
            lambda: self._records(path),
            self._depends(),
            train=train,
            classes=None if classes is None else list(read_names(classes)),
            masks=masks,
            crowd=crowd,
            name_key=name_key,
            name_parts=name_parts,
        )
        self.classes = tuple(self._index.meta["classes"])
        self.category_ids = tuple(self._index.meta["category_ids"])
        if separator:
            self.classes, *others = part_wordings(self.classes, separator)
            self.wordings = tuple(others)
        if rename is not None:
            self.classes = renamed(self.classes, rename)
        self.masks: bool = self._index.meta["masks"]
        self._strict = self._decoded = self.masks  # masks are needed; masks are in the samples
        self._attach()
        self._indices = self._chosen(min_size, set(exclude))
        require_images(self.images, self._names)
        self.provides = frozenset({"boxes", "labels"} | ({"masks"} if self.masks else set()))

    def serve(self, needs: frozenset[str], *, pasting: bool = False) -> None:
        if self.masks and "masks" not in needs:
            self._strict, self._decoded = False, pasting
            self.problems.used_after_all(self._index.meta["mask_problems"], silently=[NO_MASK])
        super().serve(needs, pasting=pasting)

    def _attach(self) -> None:
        """Views of the index that read texts and segmentations."""
        self._names = Strings.of(self._index["names.ends"], self._index["names.bytes"])
        self._segmentations = Segmentations.of(self._index) if self.masks else Segmentations()

    def __getstate__(self) -> dict[str, Any]:
        # a worker that is not forked opens the index itself: its arrays are not sent
        return {k: v for k, v in self.__dict__.items() if k not in ("_names", "_segmentations")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._attach()

    def _annotation_file(self, annotations: str | Path) -> Path:
        """What the annotations are read from; formats whose files lie in a folder override it."""
        return require(annotations, "annotations")

    def _records(self, path: Path) -> Iterator[tuple[str, Any]]:
        """(section, record) of the annotation file in any order; formats other than COCO's override it."""
        return json_records(path)

    def _depends(self) -> dict[str, Any]:
        """What else than this class's arguments `_records` depends on, as JSON can hold it."""
        return {}

    def _chosen(self, min_size: int, exclude: set[str]) -> np.ndarray:
        """Rows of the images that are samples: int64 [len]."""
        sizes = self._index["sizes"]
        chosen = np.ones(len(sizes), dtype=bool)
        if exclude:
            chosen &= np.array([name not in exclude for name in self._names], dtype=bool)
        if self.train:  # any annotation of a class and no side below `min_size`
            annotated, large = self._index["annotated"], sizes.min(axis=1) >= min_size
            self._leave_out("image without objects", chosen & ~annotated)
            self._leave_out(f"image with a side below {min_size} pixels", chosen & annotated & ~large)
            chosen &= annotated & large
        return np.flatnonzero(chosen)

    def _leave_out(self, kind: str, images: np.ndarray) -> None:
        """Count images bool [n] that are no samples."""
        for row in np.flatnonzero(images)[:EXAMPLES]:
            self.problems.report(kind, self._names[int(row)])
        rest = int(images.sum()) - EXAMPLES
        self.problems.report(kind, "", number=rest)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, i: int) -> Sample:
        row = self._row(i)
        height, width = size = self._size(row)
        image = self._picture(self._names[row], size)
        if not self.train:
            return {"image": image}
        first, last = self._span(row)
        chosen = first + np.flatnonzero(~self._ignored(first, last))
        sample: Sample = {"image": image}
        if self._decoded:
            rles = self._rles(chosen, size)
            visible = areas(rles) > 0
            if self._strict and not visible.all():
                number = chosen[~visible][0] - first
                self.problems.report_once("empty mask", f"object {number} of {self._names[row]}")
                rles, chosen = list(compress(rles, visible)), chosen[visible]
            masks = decode_masks(rles, size)
            if not self._strict:  # an object without a mask is pasted as its box
                for place in np.flatnonzero(~visible).tolist():
                    fill_box(masks[place], self._index["boxes"][chosen[place]])
            sample["masks"] = tv_tensors.Mask(masks)
        boxes = self._index["boxes"][chosen].clip(0, [width, height, width, height])
        sample["boxes"] = tv_tensors.BoundingBoxes(
            torch.from_numpy(boxes.astype(np.float32)),
            format=tv_tensors.BoundingBoxFormat.XYXY,
            canvas_size=size,
        )
        sample["labels"] = torch.from_numpy(self._index["labels"][chosen].astype(np.int64))
        return sample

    def target(self, i: int) -> Target:
        row = self._row(i)
        size, (first, last) = self._size(row), self._span(row)

        def column(name: str, dtype: type) -> torch.Tensor:
            return torch.from_numpy(self._index[name][first:last].astype(dtype))

        return Target(
            id=i,
            size=size,
            image=str(self._file(self._names[row])),
            image_id=self._id(row),
            boxes=column("boxes", np.float32),
            labels=column("labels", np.int64),
            masks=self._rles(range(first, last), size) if self._strict else None,
            iscrowd=torch.from_numpy(self._ignored(first, last)),
            area=column("areas", np.float32),
        )

    def portrait(self) -> Tensor:
        sizes = self._index["sizes"][self._indices]
        return torch.from_numpy(sizes[:, 1] < sizes[:, 0])

    def label_sets(self) -> tuple[np.ndarray, np.ndarray]:
        """The classes in each sample without decoding anything: int64 starts [len + 1], labels.

        Sample `i` holds objects of `labels[starts[i] : starts[i + 1]]`; what is ignored is none.
        """
        first, last = self._index["starts"][self._indices], self._index["starts"][self._indices + 1]
        ends = np.concatenate([[0], np.cumsum(last - first)])
        places = np.arange(ends[-1]) + np.repeat(first - ends[:-1], last - first)
        kept = ~self._ignored(0, len(self._index["crowd"]))[places]
        starts = np.concatenate([[0], np.cumsum(kept)])[ends]
        return starts, self._index["labels"][places[kept]].astype(np.int64)

    def _row(self, i: int) -> int:
        if not 0 <= i < len(self):
            raise IndexError(i)
        return int(self._indices[i])

    def _id(self, row: int) -> int | str:
        if "ids" in self._index:
            return int(self._index["ids"][row])
        return json.loads(Strings.of(self._index["ids.ends"], self._index["ids.bytes"])[row])

    def _size(self, row: int) -> tuple[int, int]:
        height, width = self._index["sizes"][row].tolist()
        return height, width

    def _span(self, row: int) -> tuple[int, int]:
        """The first of an image's annotations and the one after its last."""
        first, last = self._index["starts"][row : row + 2].tolist()
        return first, last

    def _ignored(self, first: int, last: int) -> np.ndarray:
        """bool: which of some annotations are neither found nor missed, nor trained on."""
        crowd = np.array(self._index["crowd"][first:last])
        return crowd | missing(self._index["masks.kinds"][first:last]) if self._strict else crowd

    def _rles(self, annotations: Iterable[int], size: tuple[int, int]) -> list[dict[str, Any]]:
        """RLE of some annotations of an image of `size`; empty if unusable."""
        return [self._segmentations.rle(int(place), size) or empty_rle(size) for place in annotations]


def _read(
    path: Path, images: Path, records: Records, depends: dict[str, Any], **options: Any
) -> tuple[Index, Problems]:
    """The tables of a COCO file, of its index if it is large, and the problems met when they were made."""
    problems = Problems(str(path), quiet=True)
    key = {**options, **depends}

    def build() -> tuple[Arrays, dict[str, Any]]:
        return CocoReader(path, images, Problems(str(path), quiet=True), records=records, **options).read()

    index = cached(path, key, build)
    if index.meta["images"] not in (None, str(images)):  # sizes were taken from other images' headers
        index = cached(path, {**key, "images": str(images)}, build)
    problems.restore(index.meta["problems"])
    problems.restore(index.meta["mask_problems"])
    return index, problems
