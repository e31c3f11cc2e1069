"""Pascal VOC detection: one XML file per image, as COCO records.

Corners in the files count pixels from 1 and include the last one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ufo.data.datasets.base import require
from ufo.data.datasets.coco import CocoDataset
from ufo.data.datasets.naming import read_names, read_split
from ufo.data.errors import DataError

MAX_XML = 4_000_000
"""Bytes of the largest annotation file that is read."""


class VocDataset(CocoDataset):
    """Boxes of the images that a split file lists.

    Args:
        images: folder of the images, such as `VOC2012/JPEGImages`.
        annotations: the split file, such as `VOC2012/ImageSets/Main/train.txt`: one name per line.
        objects: folder of the XML files, such as `VOC2012/Annotations`.
        names: class names in label order, or a text file with one per line.
        difficult: train on objects marked as difficult; otherwise, as in the VOC evaluation, they count
            as crowd: neither found nor missed.

    The other arguments are those of CocoDataset. Raises DataError if a file is missing or no VOC XML.
    """

    provides = frozenset({"boxes", "labels"})

    def __init__(
        self,
        images: str | Path,
        annotations: str | Path,
        *,
        objects: str | Path,
        names: Sequence[str] | str | Path,
        difficult: bool = False,
        train: bool = False,
        classes: Sequence[str] | None = None,
        min_size: int = 32,
        exclude: Sequence[str] = (),
    ) -> None:
        self._objects = require(objects, "objects", folder=True)
        self._class_names = read_names(names, "names")
        self._difficult = difficult
        options = {"train": train, "classes": classes, "masks": False, "min_size": min_size}
        super().__init__(images, annotations, exclude=exclude, **options)

    def _records(self, path: Path) -> Iterator[tuple[str, dict[str, Any] | None]]:
        """Categories, all images, then all annotations, as COCO records."""
        for number, name in enumerate(self._class_names):
            yield "categories", {"id": number, "name": name}
        numbers = {name: number for number, name in enumerate(self._class_names)}
        trees = {stem: _parse(require(self._objects / f"{stem}.xml", "objects")) for stem in read_split(path)}
        for stem, tree in trees.items():
            size = {side: _number(tree.findtext(f"size/{side}")) for side in ("height", "width")}
            yield "images", {"id": stem, "file_name": f"{stem}.jpg", **size}
        yield "annotations", None
        places = ((stem, element) for stem, tree in trees.items() for element in tree.iter("object"))
        for place, (stem, element) in enumerate(places):
            yield (
                "annotations",
                {
                    "id": place,
                    "image_id": stem,
                    "category_id": numbers.get((element.findtext("name") or "").strip(), -1),
                    "bbox": _box(element),
                    "iscrowd": int(not self._difficult and element.findtext("difficult") == "1"),
                },
            )

    def _depends(self) -> dict[str, Any]:
        return {"objects": str(self._objects), "names": self._class_names, "difficult": self._difficult}


def _parse(path: Path) -> ElementTree.Element:
    """The root of an XML file without a document type: those may define entities that grow without bound."""
    content = path.read_bytes()
    if len(content) > MAX_XML or b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise DataError(f"{path} is no VOC annotation: too large, or it defines its own entities.")
    try:
        return ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise DataError(f"{path} is not valid XML ({error}): fetch the file again.") from error


def _box(element: ElementTree.Element) -> list[float] | None:
    """x, y, width, height from 0, or None if the element has no usable corners."""
    corners = [_number(element.findtext(f"bndbox/{c}")) for c in ("xmin", "ymin", "xmax", "ymax")]
    if None in corners:
        return None
    x1, y1, x2, y2 = corners
    return [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1]


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return int(value) if value.is_integer() else value
