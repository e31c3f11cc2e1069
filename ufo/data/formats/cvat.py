"""CVAT's xml "for images 1.1": box, polygon, ellipse, mask; its COCO export is read as COCO.

A mask's `rle` counts pixels row by row in the box `left`, `top`, `width`, `height`, first those outside.
Rotations are in degrees, clockwise, about the middle. Classes have the order of the task's `<labels>`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np
from pycocotools import mask as coco_mask

from ufo.data.errors import DataError
from ufo.data.formats import coco
from ufo.data.labels.reading import Source, peek, xml_of
from ufo.data.labels.record import Labels, Picture, Thing, split_of
from ufo.data.labels.shapes import (
    around,
    ellipse,
    flat,
    mask_rle,
    number,
    pairs_of,
    pasted,
    rle_box,
    turned,
)
from ufo.data.labels.writing import free
from ufo.data.pictures import MAX_PIXELS
from ufo.data.problems import DOUBTFUL
from ufo.files import writing

ABOUT = "CVAT xml for images 1.1 (and CVAT's COCO export)"
ALIASES = ("cvat_for_images", "cvat_images", "cvat_xml", "cvat_coco")
ORDER = 10
OTHERS = ("polyline", "points", "cuboid", "skeleton", "tag")


def recognise(source: Source) -> str:
    return source.sign(_files(source))


def read(source: Source) -> Labels:
    """All xml files of an export; without any, its COCO json."""
    labels = Labels([], source.problems)
    files = _files(source)
    if not files:
        if coco.recognise(source):
            return coco.read(source)
        raise DataError(f"There is no CVAT xml in {source.path}: export the task as 'CVAT for images 1.1'.")
    for path in files:
        root = xml_of(path)
        if root.find("track") is not None:
            raise DataError(
                f"{source.place(path)} is 'CVAT for video': export the task as 'CVAT for images 1.1', which "
                "has the objects of every frame."
            )
        for name in root.iterfind("meta//labels/label/name"):
            labels.add_class((name.text or "").strip())
        for place, element in enumerate(root.iterfind("image"), start=1):
            if picture := _picture(source, element, path, f"{source.place(path)}, image {place}"):
                labels.pictures.append(picture)
    return labels


def _files(source: Source) -> list[Path]:
    return [path for path in source.files(".xml") if "<annotations" in peek(path)]


def _picture(source: Source, element: Element, path: Path, where: str) -> Picture | None:
    name = element.get("name", "")
    size = (element.get("height"), element.get("width"))
    split = split_of(element.get("subset", "")) or source.split(path, name)
    found = source.find(name, path.parent, split)
    picture = source.open(found, f"{where}: {name}", size=size, split=split)
    if picture is None:
        return None
    for place, shape in enumerate(element, start=1):
        at = f"{where}, shape {place}"
        if shape.tag in OTHERS:
            source.problems.report(f"{shape.tag} of CVAT", at)
            continue
        if shape.find("attribute") is not None:
            source.problems.report("attributes of an object, which are not taken", at, effect=DOUBTFUL)
        thing = Thing(shape.get("label", "").strip(), where=at)
        try:
            known = _shape(source, thing, shape, picture.size)
        except ValueError as error:
            source.problems.report(str(error)[:80], at)
            continue
        if known:
            picture.things.append(thing)
        else:
            source.problems.report(f"shape of the kind {shape.tag[:30]}", at)
    return picture


def _shape(source: Source, thing: Thing, shape: Element, size: tuple[int, int]) -> bool:
    """Set where an object is; False for a kind of shape that is not known. ValueError if it is damaged."""
    degrees = number(shape.get("rotation", "0")) or 0.0
    if shape.tag == "box":
        x1, y1, x2, y2 = _values(shape, "xtl", "ytl", "xbr", "ybr")
        thing.box = (x1, y1, x2, y2)
        if degrees:
            corners = ((x1, y1), (x2, y1), (x2, y2), (x1, y2))
            thing.box = around(turned(corners, degrees, ((x1 + x2) / 2, (y1 + y2) / 2)))
            source.problems.report(
                "turned box, of which the enclosing one is taken", thing.where, effect=DOUBTFUL
            )
    elif shape.tag == "polygon":
        thing.polygons = [flat(_points(shape))]
    elif shape.tag == "ellipse":
        cx, cy, rx, ry = _values(shape, "cx", "cy", "rx", "ry")
        thing.polygons = [ellipse(cx, cy, rx, ry, degrees)]
    elif shape.tag == "mask":
        left, top, width, height = (int(v) for v in _values(shape, "left", "top", "width", "height"))
        thing.rle = mask_rle(pasted(_mask(shape.get("rle", ""), width, height), left, top, size))
    else:
        return False
    return True


def _values(shape: Element, *names: str) -> list[float]:
    found = [number(shape.get(name)) for name in names]
    known = [value for value in found if value is not None]
    if len(known) < len(names):
        raise ValueError(f"{shape.tag} without usable numbers")
    return known


def _points(shape: Element) -> list[tuple[float, float]]:
    """`x,y;x,y;...`"""
    found = []
    for pair in shape.get("points", "").split(";"):
        x, _, y = pair.partition(",")
        known = number(x), number(y)
        if known[0] is None or known[1] is None:
            raise ValueError("polygon without usable points")
        found.append((known[0], known[1]))
    return found


def _mask(text: str, width: int, height: int) -> np.ndarray:
    """uint8 [height, width] of run lengths row by row, first those of 0."""
    try:
        runs = [int(run) for run in text.split(",")]
    except ValueError:
        raise ValueError("mask whose runs cannot be read") from None
    if not 0 < width * height <= MAX_PIXELS or min(runs) < 0 or sum(runs) != width * height:
        raise ValueError("mask whose runs do not add up to its size")
    values = np.arange(len(runs), dtype=np.uint8) % 2
    return np.repeat(values, runs).reshape(height, width)


# --- predictions for it


def write(
    pictures: Sequence[Picture], out: Path, *, names: Sequence[str], force: bool = False, **_: Any
) -> list[Path]:
    """`annotations.xml`, to be uploaded to a task that has the pictures; CVAT keeps no scores."""
    (path,) = free([out / "annotations.xml"], force)
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    labels = ElementTree.SubElement(
        ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task"), "labels"
    )
    for name in dict.fromkeys(thing.label for picture in pictures for thing in picture.things):
        ElementTree.SubElement(ElementTree.SubElement(labels, "label"), "name").text = name
    for place, (picture, name) in enumerate(zip(pictures, names, strict=True)):
        height, width = picture.size
        head = {"id": str(place), "name": name, "width": str(width), "height": str(height)}
        element = ElementTree.SubElement(root, "image", head)
        for thing in picture.things:
            _write_thing(element, thing)
    ElementTree.indent(root)
    with writing(path, "wb") as file:
        ElementTree.ElementTree(root).write(file, encoding="utf-8", xml_declaration=True)
    return [path]


def _write_thing(element: Element, thing: Thing) -> None:
    head = {"label": thing.label, "source": "auto", "occluded": "0", "z_order": "0"}
    if thing.polygons:
        for polygon in thing.polygons:
            points = ";".join(f"{x:.2f},{y:.2f}" for x, y in pairs_of(polygon))
            ElementTree.SubElement(element, "polygon", {**head, "points": points})
    elif thing.rle is not None:
        left, top, right, bottom = (round(v) for v in rle_box(thing.rle))
        mask = coco_mask.decode(thing.rle)[top:bottom, left:right]
        runs = [len(list(run)) for _, run in groupby(mask.ravel().tolist())]
        counts = [0, *runs] if mask.ravel()[0] else runs
        place = {"left": left, "top": top, "width": right - left, "height": bottom - top}
        rle = {"rle": ", ".join(map(str, counts)), **{k: str(v) for k, v in place.items()}}
        ElementTree.SubElement(element, "mask", {**head, **rle})
    else:
        sides = zip(("xtl", "ytl", "xbr", "ybr"), thing.box or (0, 0, 0, 0), strict=True)
        ElementTree.SubElement(element, "box", {**head, **{side: f"{v:.2f}" for side, v in sides}})
