"""COCO json: `images`, `annotations`, `categories`; one file, or one for each split.

Also as CVAT and Roboflow write it: `annotations/instances_default.json` beside `images/`, and
`train/_annotations.coco.json` among the pictures. Boxes are x, y, width, height.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from ufo.data.datasets.coco_file import flag, key_of
from ufo.data.errors import DataError
from ufo.data.json_stream import json_records
from ufo.data.labels.reading import Source, peek
from ufo.data.labels.record import Labels, Picture, Thing
from ufo.data.labels.shapes import checked_rle, numbers
from ufo.data.problems import DOUBTFUL

ABOUT = "COCO json with boxes, polygons, RLE (also of CVAT and Roboflow)"
ORDER = 30


def recognise(source: Source) -> str:
    return source.sign(_files(source))


def read(source: Source) -> Labels:
    """All annotation files of a folder, each a split of its own if it is named after one."""
    files = _files(source)
    if not files:
        raise DataError(
            f"There is no COCO json in {source.path}: it needs the lists `images` and `categories`."
        )
    labels = Labels([], source.problems)
    for path in files:
        _read_file(source, labels, path)
    return labels


def _files(source: Source) -> list[Path]:
    """The json files that begin as a COCO file does; those of captions or keypoints only if alone."""
    found = [path for path in source.files(".json") if _is_coco(path)]
    objects = [p for p in found if not p.name.startswith(("captions_", "person_keypoints_", "stuff_"))]
    return objects or found


def _is_coco(path: Path) -> bool:
    start = peek(path, 1 << 16)
    named = any(f'"{key}"' in start for key in ("images", "annotations", "categories"))
    if not start.lstrip().startswith("{") or not named:
        return False
    if "shapes" in start and "imagePath" in start:
        return False
    sections = set()
    try:
        for section, _ in json_records(path):
            sections.add(section)
            if {"images", "categories"} <= sections or {"images", "annotations"} <= sections:
                return True
    except DataError:
        return '"images"' in start  # it is said when it is read
    return False


def _read_file(source: Source, labels: Labels, path: Path) -> None:
    split = source.split(path)
    pictures: dict[Any, Picture | None] = {}
    categories: dict[Any, str] = {}
    parents: set[str] = set()
    for section, record in json_records(path):
        if not isinstance(record, dict):
            continue
        if section == "categories":
            name, number = str(record.get("name") or "").strip(), key_of(record, "id")
            if categories.get(number, name) != name:
                raise DataError(
                    f"{source.place(path)} has the category id {number} for {categories[number]!r} and for "
                    f"{name!r}; give every category its own."
                )
            if name and name in categories.values() and number not in categories:
                labels.notes.append(f"{source.place(path)} has several categories {name!r}, taken as one")
            categories[number] = name
            if record.get("supercategory"):
                parents.add(str(record["supercategory"]).strip())
        elif section == "images":
            key = key_of(record, "id")
            if key is None or key in pictures:
                kind = "image record without an id" if key is None else "image record of an id used before"
                source.problems.report(kind, source.place(path))
            else:
                pictures[key] = _picture(source, record, path, split)
    used: set[str] = set()
    for section, record in json_records(path):
        if section == "annotations" and isinstance(record, dict):
            thing, picture = _thing(source, record, pictures, categories, path)
            if thing is not None and picture is not None:
                picture.things.append(thing)
                used.add(thing.label)
    for name in categories.values():
        if name in parents and name not in used:  # Roboflow's first category is the name of the project
            note = f"category {name!r} is left out: it only stands above the others"
            labels.notes += [] if note in labels.notes else [note]
        else:
            labels.add_class(name)
    named = [str(picture.path) for picture in pictures.values() if picture is not None]
    for name, count in Counter(named).items():
        source.problems.report(
            "picture listed under several ids", source.place(Path(name)), effect=DOUBTFUL, number=count - 1
        )
    labels.pictures += [picture for picture in pictures.values() if picture is not None]


def _picture(source: Source, record: dict[str, Any], path: Path, split: str) -> Picture | None:
    name = record.get("file_name")
    if not isinstance(name, str):
        source.problems.report("image record without a file name", source.place(path))
        return None
    size = (record.get("height"), record.get("width"))
    return source.open(source.find(name, path.parent, split), name, size=size, split=split)


def _thing(
    source: Source,
    record: dict[str, Any],
    pictures: dict[Any, Picture | None],
    categories: dict[Any, str],
    path: Path,
) -> tuple[Thing | None, Picture | None]:
    """One annotation and its picture; None, and counted, if it has none."""
    report = source.problems.report
    where = f"{source.place(path)}, annotation {str(record.get('id'))[:40]}"
    key = key_of(record, "image_id")
    picture = pictures.get(key)
    if picture is None:
        if key not in pictures:
            report("annotation of a picture that is not in the file", where)
        else:
            report("annotation of a picture that was left out", where)
        return None, None
    label = categories.get(key_of(record, "category_id"))
    if label is None:
        report("annotation of a category that is not in the file", where)
        return None, None
    thing = Thing(label, where=where)
    if (box := numbers(record.get("bbox"), 4)) is not None:
        x, y, width, height = box
        thing.box = (x, y, x + width, y + height)
    _segmentation(source, record, thing, picture)
    if record.get("keypoints"):
        report("keypoints, of which only the box is taken", where, effect=DOUBTFUL)
    if flag(record, "iscrowd"):
        attributes = record.get("attributes")
        if isinstance(attributes, dict) and "occluded" in attributes:  # CVAT marks every brush mask
            report("mask that CVAT marks as crowd, taken as an object", where, effect=DOUBTFUL)
        else:
            thing.crowd = True
    return thing, picture


def _segmentation(source: Source, record: dict[str, Any], thing: Thing, picture: Picture) -> None:
    shape = record.get("segmentation")
    if not shape:
        return
    if isinstance(shape, dict):
        try:
            thing.rle = checked_rle(shape, picture.size)
        except (TypeError, ValueError) as error:
            source.problems.report(str(error)[:80] or "unreadable mask", thing.where)
        return
    polygons = [numbers(p) for p in shape] if isinstance(shape, list) else [None]
    for polygon in polygons:
        if polygon is None or len(polygon) % 2:
            source.problems.report("polygon that is no list of points", thing.where)
        else:
            thing.polygons.append(polygon)
