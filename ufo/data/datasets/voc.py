"""Pascal VOC detection: one XML file per image, as COCO records.

Corners in the files count pixels from 1 and include the last one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

from ufo.data.datasets.base import require
from ufo.data.datasets.coco import CocoDataset
from ufo.data.datasets.coco_file import flag
from ufo.data.datasets.coco_table import PROBLEM
from ufo.data.datasets.naming import read_names, read_split
from ufo.data.errors import DataError
from ufo.data.image_files import IMAGE_SUFFIXES
from ufo.data.json_stream import EMPTY
from ufo.data.pictures import find_file, is_file
from ufo.data.xml_files import parse_xml

MAX_XML = 4_000_000
"""Bytes of the largest annotation file that is read."""


MAX_FORGOTTEN = 20
"""So many classes that `names` lacks are named one by one."""


class VocDataset(CocoDataset):
    """Boxes of the images that a split file lists, or of all XML files of a folder.

    An image is the file of the XML file's name with any suffix, or the one that `<filename>` names: what that
    says is often left from before files were renamed.

    Args:
        images: folder of the images, such as `VOC2012/JPEGImages`.
        annotations: the split file, such as `VOC2012/ImageSets/Main/train.txt`: one name per line. `None`:
            all XML files.
        objects: folder of the XML files, such as `VOC2012/Annotations`.
        names: class names in label order, or a text file with one per line. `None`: those in the files, in
            the order of the alphabet.
        difficult: train on objects marked as difficult; otherwise, as in the VOC evaluation, they count
            as crowd: neither found nor missed.

    The other arguments are those of CocoDataset. Raises DataError if a file is missing or no VOC XML.
    """

    provides = frozenset({"boxes", "labels"})

    def __init__(
        self,
        images: str | Path,
        annotations: str | Path | None = None,
        *,
        objects: str | Path,
        names: Sequence[str] | str | Path | None = None,
        difficult: bool = False,
        train: bool = False,
        classes: Sequence[str] | None = None,
        min_size: int = 32,
        exclude: Sequence[str] = (),
    ) -> None:
        self._objects = require(objects, "objects", folder=True)
        self._class_names = None if names is None else read_names(names, "names")
        self._difficult = difficult
        super().__init__(
            images,
            annotations or objects,
            train=train,
            classes=classes,
            masks=False,
            min_size=min_size,
            exclude=exclude,
        )

    def _annotation_file(self, annotations: str | Path) -> Path:
        path = Path(annotations)
        return self._objects if path == self._objects else require(path, "annotations")

    def _records(self, path: Path) -> Iterator[tuple[str, Any]]:
        """Categories, all images, then all annotations, as COCO records."""
        trees = dict(self._trees(path))
        names = self._class_names
        if names is None:
            found = {name_of(element) for tree in trees.values() for element in tree.iter("object")}
            names = tuple(sorted(found - {""}))
        for number, name in enumerate(names):
            yield "categories", {"id": number, "name": name}
        numbers = {name: number for number, name in enumerate(names)}
        if not names:
            raise DataError(f"No object of the XML files in {self._objects} has a name; set `names`.")
        stems = dict(_stems(self.images))
        for stem, tree in trees.items():
            size = {side: _number(tree.findtext(f"size/{side}")) for side in ("height", "width")}
            yield "images", {"id": stem, "file_name": _file(self.images, stem, tree, stems), **size}
        yield "annotations", EMPTY
        places = ((stem, element) for stem, tree in trees.items() for element in tree.iter("object"))
        forgotten: set[str] = set()
        for place, (stem, element) in enumerate(places):
            name = name_of(element)
            record = {
                "id": place,
                "image_id": stem,
                "category_id": numbers.get(name, -1),
                "bbox": corners_of(element),
                "iscrowd": int(not self._difficult and is_difficult(element)),
            }
            if name not in numbers and (name in forgotten or len(forgotten) < MAX_FORGOTTEN):
                forgotten.add(name)
                record[PROBLEM] = f"object of class {name[:60]!r}, which `names` lacks"
            yield "annotations", record

    def _trees(self, path: Path) -> Iterator[tuple[str, ElementTree.Element]]:
        """The XML files by the names of their images without suffix."""
        if path != self._objects:
            for stem in read_split(path):
                yield stem, parse_xml(require(find_file(self._objects, f"{stem}.xml"), "objects"), MAX_XML)
            return
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() == ".xml")
        if not files:
            raise DataError(f"There is no XML file in {path}: set `objects` to their folder.")
        for file in files:
            yield file.relative_to(path).with_suffix("").as_posix(), parse_xml(file, MAX_XML)

    def _depends(self) -> dict[str, Any]:
        return {"objects": str(self._objects), "names": self._class_names, "difficult": self._difficult}


def _stems(images: Path) -> Iterator[tuple[str, str]]:
    """The pictures below a folder by their names without suffix."""
    for path in sorted(images.rglob("*"), reverse=True):  # of several the first one stays
        if path.suffix.lower() in IMAGE_SUFFIXES:
            name = path.relative_to(images)
            yield name.with_suffix("").as_posix(), name.as_posix()


def _file(images: Path, stem: str, tree: ElementTree.Element, stems: dict[str, str]) -> str:
    """Where an image is: under the name of the file, else as the file says."""
    said = PurePosixPath((tree.findtext("filename") or "").strip().replace("\\", "/")).name
    own = stems.get(stem)
    if said and (own is None or PurePosixPath(said).stem == PurePosixPath(stem).name):
        named = str(PurePosixPath(stem).parent / said)
        if is_file(find_file(images, named)):
            return named
    return own or f"{stem}.jpg"


def name_of(element: ElementTree.Element) -> str:
    """The class of an object."""
    return (element.findtext("name") or "").strip()


def is_difficult(element: ElementTree.Element) -> bool:
    """Whether an object is marked as difficult."""
    return flag({"mark": element.findtext("difficult")}, "mark")


def corners_of(element: ElementTree.Element) -> list[float] | None:
    """x, y, width, height from 0, or None if the element has no usable corners."""
    corners = [_number(element.findtext(f"bndbox/{c}")) for c in ("xmin", "ymin", "xmax", "ymax")]
    known = [corner for corner in corners if corner is not None]
    if len(known) < len(corners):
        return None
    x1, y1, x2, y2 = known
    return [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1]


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return int(value) if value.is_integer() else value
