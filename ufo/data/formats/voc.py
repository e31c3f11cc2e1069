"""Pascal VOC: an XML file per picture, splits in `ImageSets/Main`, class maps in `SegmentationClass`.

Corners count pixels from 1 and include the last one. They count from 0 and are edges where one of an export
is 0, or where there is a `labelmap.txt`, as of CVAT. Also as Roboflow writes it: XML files among the pictures
of `train/` and `valid/`, some with a polygon. LabelImg's count from 0 and are never 0; nothing in its files
tells them from others, so that their left and upper sides lie one pixel further out (docs/your_data.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

from ufo.data.datasets.naming import read_split
from ufo.data.datasets.voc import MAX_XML, corners_of, is_difficult, name_of
from ufo.data.errors import DataError
from ufo.data.formats.masks import add_maps
from ufo.data.labels.finding import spelled
from ufo.data.labels.reading import Source, lines_of, peek, xml_of
from ufo.data.labels.record import SPLITS, Labels, Picture, Thing
from ufo.data.labels.shapes import number
from ufo.data.problems import DOUBTFUL

ABOUT = "Pascal VOC xml files, their split files and SegmentationClass maps"
ALIASES = ("pascal", "pascal_voc", "pascalvoc")
ORDER = 40


def recognise(source: Source) -> str:
    for path in source.files(".xml")[:50]:
        start = peek(path)
        if "<annotation" in start and "<annotations" not in start and "<object" in peek(path, 1 << 16):
            return source.place(path)
    return ""


def read(source: Source) -> Labels:
    """Every XML file is a picture; what split files list stands before the names of folders."""
    labels = Labels([], source.problems)
    if listed := source.first("labelmap.txt"):
        names = [line.split(":")[0].strip() for line in lines_of(listed) if not line.startswith("#")]
        labels.classes = [name for name in names if name and name != "background"]
    splits = Splits(source)
    for path in source.files(".xml"):
        try:
            root = xml_of(path, MAX_XML)
        except DataError as error:
            source.problems.report("file that cannot be read", str(error))
            continue
        if root.tag != "annotation":
            source.problems.report("xml file that is no VOC annotation", source.place(path))
            continue
        picture = _picture(source, root, path, splits)
        if picture is None:
            continue
        picture.things = [t for t in _things(source, root, path) if t is not None]
        labels.pictures.append(picture)
    _count_from_zero(labels, sure=listed is not None)
    names = sorted({t.label for p in labels.pictures for t in p.things} | set(labels.classes))
    add_maps(source, labels, names, splits.of)
    if not labels.pictures:
        raise DataError(f"No VOC annotation in {source.path} can be used: {source.problems.summary()}.")
    return labels


class Splits:
    """Splits by the files of `ImageSets` called `train.txt` and so on, not `bird_train.txt`."""

    def __init__(self, source: Source) -> None:
        self._stems = source.stems
        self._found: dict[str, str] = {}  # by name, with the folders that a split file says
        for path in source.files(".txt"):
            if "ImageSets" in path.parts and (split := SPLITS.get(path.stem.lower())):
                self._read(source, path, split)

    def _read(self, source: Source, path: Path, split: str) -> None:
        try:
            names = read_split(path, self)
        except DataError as error:
            source.problems.report("split file that cannot be used", str(error), effect=DOUBTFUL)
            return
        for name in names:
            where = f"{source.place(path)}: {name[:80]}"
            if name not in self:
                source.problems.report("name in a split file without its picture", where)
            elif self._found.setdefault(spelled(name), split) != split:
                source.problems.report("picture in two splits, kept in the first", where, effect=DOUBTFUL)

    def __contains__(self, name: object) -> bool:
        """Whether there is a picture of a name, which may have blanks and any spelling."""
        return isinstance(name, str) and spelled(name).rsplit("/", 1)[-1] in self._stems

    def of(self, path: Path) -> str:
        """The split of a label file, or an empty text."""
        parts = path.with_suffix("").parts
        names = (spelled("/".join(parts[k:])) for k in range(len(parts)))
        return next((self._found[name] for name in names if name in self._found), "")


def _picture(source: Source, root: Element, path: Path, splits: Splits) -> Picture | None:
    """The picture that the file names, or the one that is called as the file is."""
    said = (root.findtext("filename") or "").strip()
    found = source.own(said, path)
    split = splits.of(path) or source.split(path, stem=False)
    size = (root.findtext("size/height"), root.findtext("size/width"))
    return source.open(found, said or path.stem, size=size, split=split)


def _things(source: Source, root: Element, path: Path) -> Iterator[Thing | None]:
    for place, element in enumerate(root.iter("object"), start=1):
        where = f"{source.place(path)}, object {place}"
        corners = corners_of(element)
        if corners is None:
            source.problems.report("object without usable corners", where)
            continue
        x, y, width, height = corners
        thing = Thing(name_of(element), (x, y, x + width, y + height), where=where)
        if is_difficult(element):
            source.problems.report("marked as difficult: neither found nor missed", where, effect=DOUBTFUL)
            thing.crowd = True
        if (polygon := element.find("polygon")) is not None:
            thing.polygons = _polygon(polygon)
        yield thing


def _count_from_zero(labels: Labels, sure: bool) -> None:
    """Undo that the first pixel was taken for number 1: if `sure`, or if a box begins before its picture."""
    boxes = [(thing, thing.box) for picture in labels.pictures for thing in picture.things if thing.box]
    if sure or any(-1 <= side < 0 for _, box in boxes for side in box[:2]):
        for thing, (x1, y1, x2, y2) in boxes:
            thing.box = (x1 + 1, y1 + 1, x2, y2)
        why = "there is a labelmap.txt, as CVAT writes it" if sure else "some corners are 0"
        labels.notes.append(f"{why}: all corners count from 0, and not from 1 as those of Pascal VOC")


def _polygon(element: Element) -> list[list[float]]:
    """Roboflow's polygon: x1, y1, x2, y2, ... as elements of their own."""
    found: list[float] = []
    for k in range(1, len(element) + 1):
        x, y = number(element.findtext(f"x{k}")), number(element.findtext(f"y{k}"))
        if x is None or y is None:
            break
        found += [x, y]
    return [found] if len(found) >= 6 else []
