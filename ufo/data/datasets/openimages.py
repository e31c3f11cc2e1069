"""OpenImages boxes and instance masks from the official csv files (docs/published_system.md#openimages).

Rows become COCO records, so that all else is as with a COCO file: boxes are normalised in the csv and
multiplied with the size that `ufo data prepare openimages` has read from each image's header.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from ufo.data.datasets.base import prepared, read_json, require, stamp
from ufo.data.datasets.coco import CocoDataset
from ufo.data.datasets.segmentations import run_lengths
from ufo.data.errors import DataError
from ufo.data.json_stream import EMPTY
from ufo.data.pictures import image_size

BOX_COLUMNS = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax")
MASK_COLUMNS = ("ImageID", "LabelName", "BoxXMin", "BoxXMax", "BoxYMin", "BoxYMax", "rle")
SIZE_COLUMNS = ("ImageID", "Height", "Width")
GROUP_OF = {"crowd", "object", "drop"}
UNKNOWN_SIZE = (1024, 1024)
"""(height, width) that stands in for an unreadable image's: its boxes are in shares of it anyway."""

log = logging.getLogger(__name__)

Record = tuple[str, Any]


class OpenImagesDataset(CocoDataset):
    """Boxes, or boxes and masks, of one split.

    Args:
        images: folder of `<ImageID>.jpg`.
        annotations: csv of the boxes, or the csv of masks that `ufo data prepare openimages_masks` writes.
        names: `class-descriptions-boxable.csv`: label and name, in label order.
        sizes: csv of the image sizes that `ufo data prepare openimages` writes. Without it they are read
            from the images' headers here, one by one.
        group_of: what a box around a group is: "crowd" (not trained on; neither found nor missed), an
            "object" like the others, as in the published training, or "drop" (not there at all).
        hierarchy: `bbox_labels_600_hierarchy.json`: an object also counts as each of its parent classes.

    The other arguments are those of CocoDataset. Raises DataError if a file is missing, lacks a column or
    is cut short, with the line.
    """

    def __init__(
        self,
        images: str | Path,
        annotations: str | Path,
        *,
        names: str | Path,
        sizes: str | Path | None = None,
        group_of: Literal["crowd", "object", "drop"] = "crowd",
        hierarchy: str | Path | None = None,
        train: bool = False,
        classes: Sequence[str] | None = None,
        masks: bool = True,
        min_size: int = 32,
        exclude: Sequence[str] = (),
    ) -> None:
        if group_of not in GROUP_OF:
            raise DataError(f"`group_of` must be one of {', '.join(sorted(GROUP_OF))}, not {group_of!r}.")
        self._names_file = require(names, "names")
        self._sizes_file = None if sizes is None else prepared(sizes, "sizes", "openimages")
        self._group_of = group_of
        self._hierarchy = None if hierarchy is None else require(hierarchy, "hierarchy")
        self._warned = False
        if masks:
            prepared(annotations, "annotations", "openimages_masks")
        super().__init__(
            images,
            annotations,
            train=train,
            classes=classes,
            masks=masks,
            min_size=min_size,
            exclude=exclude,
        )

    def _depends(self) -> dict[str, Any]:
        files = self._names_file, self._sizes_file, self._hierarchy
        return {"group_of": self._group_of, "files": [file and stamp(file) for file in files]}

    def _records(self, path: Path) -> Iterator[Record]:
        """Categories, all images, then all annotations, as COCO records."""
        labels = read_labels(self._names_file)
        for number, name in enumerate(labels.values()):
            yield "categories", {"id": number, "name": name}
        numbers = {label: number for number, label in enumerate(labels)}
        parents = read_parents(self._hierarchy, numbers) if self._hierarchy else {}
        masks = "rle" in csv_header(path)
        sizes = self._sizes(path)
        yield "images", EMPTY
        for name, (height, width) in sizes.items():
            yield "images", {"id": name, "file_name": f"{name}.jpg", "height": height, "width": width}
        yield "annotations", EMPTY
        columns = MASK_COLUMNS if masks else BOX_COLUMNS
        for number, (line, row) in enumerate(csv_rows(path, columns, () if masks else ("IsGroupOf",))):
            name, label, *corners, last = row
            group = not masks and last == "1"
            if group and self._group_of == "drop":
                continue
            height, width = sizes[name]
            try:
                x1, x2, y1, y2 = map(float, corners)
            except ValueError as error:
                raise DataError(f"{path}, line {line}: a box needs four numbers ({error}).") from error
            x, y, w, h = x1 * width, y1 * height, (x2 - x1) * width, (y2 - y1) * height
            record: dict[str, Any] = {"image_id": name, "bbox": (x, y, w, h), "area": w * h}
            record["iscrowd"] = int(group and self._group_of == "crowd")
            if masks:
                record["segmentation"] = {"size": [height, width], "counts": last}
                record["area"] = _mask_area(last, w * h)
            category = numbers.get(label, -1)
            for i, number_of in enumerate((category, *parents.get(category, ()))):
                yield "annotations", {"id": number * 1000 + i, "category_id": number_of, **record}

    def _sizes(self, path: Path) -> dict[str, tuple[int, int]]:
        """(height, width) of every image of the annotations, in their order."""
        known = read_sizes(self._sizes_file) if self._sizes_file else {}
        sizes: dict[str, tuple[int, int]] = {}
        unreadable: list[str] = []
        for _, (name,) in csv_rows(path, ("ImageID",)):
            if name in sizes:
                continue
            try:
                sizes[name] = known.get(name) or image_size(self.images / f"{name}.jpg")
            except DataError as error:  # it stays: training replaces it, evaluation counts it as missed
                sizes[name] = UNKNOWN_SIZE
                unreadable.append(str(error))
        if unreadable and not self._warned:
            self._warned = True
            log.warning("%s: %d images can't be read (first: %s)", path, len(unreadable), unreadable[0])
        return sizes


def _mask_area(counts: str, otherwise: float) -> float:
    """Pixels of a mask; `otherwise` if its counts can't be read."""
    try:
        return float(sum(run_lengths(counts.encode("ascii"))[1::2]))
    except ValueError:
        return otherwise


def csv_header(path: Path) -> list[str]:
    """The names of a csv file's columns."""
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
        return next(csv.reader(file), [])


def csv_rows(
    path: Path, columns: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Line number and the values of some columns for each row of a csv file; "" for missing optional ones.

    Raises DataError if one of `columns` is missing, a row is too short, or the text is not UTF-8.
    """
    header = csv_header(path)
    if missing := [name for name in columns if name not in header]:
        shown = ",".join(header)[:200] or "empty"
        raise DataError(f"{path} has no column {', '.join(missing)}; its header is {shown}.")
    blank = len(header)  # a place behind the row for what the file does not have
    places = [header.index(name) if name in header else blank for name in (*columns, *optional)]
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        try:
            next(reader)
            for row in reader:
                if len(row) < blank:
                    raise DataError(
                        f"{path}, line {reader.line_num}: {len(row)} fields instead of {blank}; the file is "
                        "cut short or damaged, fetch it again."
                    )
                row[blank:] = [""]
                yield reader.line_num, tuple([row[place] for place in places])
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}).") from error
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: {error}.") from error


def read_labels(path: Path) -> dict[str, str]:
    """Name by label of a class description file, which has no header."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}).") from error
    if not rows or any(len(row) < 2 for row in rows):
        raise DataError(f"{path} is not a list of classes: each line needs a label and a name.")
    return {row[0]: row[1].strip() for row in rows}


def read_sizes(path: Path) -> dict[str, tuple[int, int]]:
    """(height, width) by image id, of the csv that the preparation writes."""
    try:
        return {name: (int(height), int(width)) for _, (name, height, width) in csv_rows(path, SIZE_COLUMNS)}
    except ValueError as error:
        raise DataError(f"{path} holds a size that is not a number ({error}).") from error


def read_parents(path: Path, numbers: dict[str, int]) -> dict[int, tuple[int, ...]]:
    """All ancestors of each class, nearest first, of the hierarchy's JSON."""
    parents: dict[int, tuple[int, ...]] = {}

    def visit(node: Any, above: tuple[int, ...]) -> None:
        if not isinstance(node, dict) or "LabelName" not in node:
            raise DataError(f"{path} is not a class hierarchy: a node has no `LabelName`.")
        number = numbers.get(node["LabelName"])
        if number is not None and above:
            # a class may stand in several places of the tree
            known = parents.get(number, ())
            parents[number] = known + tuple(a for a in above if a not in known)
        below = above if number is None else (number, *above)
        for child in _children(node):
            visit(child, below)

    visit(read_json(path), ())
    return parents


def _children(node: dict[str, Any]) -> Iterable[Any]:
    return node.get("Subcategory") or ()
