"""VGG Image Annotator (VIA 1 and 2): project json, exported json, csv; rect, polygon, circle, ellipse.

A region's class is one of its attributes: the only one, else the one called class, label, name, ..., else the
one that most regions have. An attribute's options give the order of the classes. The file attribute `caption`
is one.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ufo.data.errors import DataError
from ufo.data.labels.reading import Source, json_of, peek, rows_of
from ufo.data.labels.record import Labels, Thing
from ufo.data.labels.shapes import ellipse, flat, number, numbers

ABOUT = "VGG Image Annotator json and csv: rect, polygon, circle, ellipse"
ALIASES = ("vgg", "vgg_image_annotator", "via_json", "via_csv")
ORDER = 10
USUAL = ("class", "label", "name", "category", "type", "object", "class_name", "object_name")
PARTS = ("filename", "region_shape_attributes", "region_attributes")

Entry = tuple[Path, str, str, dict[str, Any], list[tuple[dict[str, Any], dict[str, Any]]]]
"""Label file, place in it, name and attributes of the picture, and shape and attributes of its regions."""


def recognise(source: Source) -> str:
    return source.sign(_files(source))


def read(source: Source) -> Labels:
    """The files of a project; of several forms of one project the json counts."""
    labels = Labels([], source.problems)
    files = _files(source)
    if not files:
        raise DataError(f"There is no VIA project, json or csv in {source.path}.")
    entries: list[Entry] = []
    options: dict[str, list[str]] = {}
    for path in files:
        if path.suffix.lower() == ".csv":
            entries += _of_csv(source, path)
        else:
            content = json_of(path)
            options.update(_options(content))
            entries += _of_json(source, content, path)
    key = _attribute([attributes for *_, regions in entries for _, attributes in regions])
    if key:
        labels.notes.append(f"the class of a region is its attribute {key!r}")
    for name in options.get(key, ()):
        labels.add_class(name)
    for path, at, name, about, regions in entries:
        split, where = source.split(path, name), f"{at}: {name[:200]}"
        picture = source.open(source.find(name, path.parent, split), where, split=split)
        if picture is None:
            continue
        if isinstance(said := about.get("caption"), str) and said.strip():
            picture.captions.append(said.strip())
        for place, (shape, attributes) in enumerate(regions, start=1):
            thing = Thing(_label(attributes.get(key)), where=f"{where}, region {place}")
            if _place(source, thing, shape):
                picture.things.append(thing)
        labels.pictures.append(picture)
    return labels


def _files(source: Source) -> list[Path]:
    found = []
    for path in source.files(".json", ".csv"):
        start = peek(path, 1 << 16)
        csv = path.suffix.lower() == ".csv" and all(part in start for part in PARTS)
        if csv or "_via_img_metadata" in start or ('"shape_attributes"' in start and '"filename"' in start):
            found.append(path)
    projects = [path for path in found if path.suffix.lower() == ".json"]
    return projects or found


def _of_json(source: Source, content: Any, path: Path) -> Iterator[Entry]:
    """The files of a project, or of an exported json, which is the project's middle alone."""
    files = content.get("_via_img_metadata", content) if isinstance(content, dict) else {}
    for entry in files.values() if isinstance(files, dict) else ():
        if not isinstance(entry, dict) or not isinstance(entry.get("filename"), str):
            source.problems.report("entry without a file name", source.place(path))
            continue
        regions = entry.get("regions") or []
        regions = list(regions.values()) if isinstance(regions, dict) else regions  # VIA 1 numbers them
        known = [
            (_dict(region.get("shape_attributes")), _dict(region.get("region_attributes")))
            for region in (regions if isinstance(regions, list) else ())
            if isinstance(region, dict)
        ]
        yield path, source.place(path), entry["filename"], _dict(entry.get("file_attributes")), known


def _of_csv(source: Source, path: Path) -> list[Entry]:
    """One row per region; a file without regions has one row, too."""
    rows = rows_of(path)
    head = [cell.lstrip("#").strip() for cell in rows[0][1]] if rows else []
    if not set(PARTS) <= set(head):
        raise DataError(f"{path} has no columns {', '.join(PARTS)}.")
    found: dict[str, Entry] = {}
    for line, row in rows[1:]:
        cells = dict(zip(head, row, strict=False))
        shape, attributes = _object(cells.get(PARTS[1])), _object(cells.get(PARTS[2]))
        name = cells.get("filename", "")
        about = _object(cells.get("file_attributes"))
        entry = found.setdefault(name, (path, source.place(path, line), name, about, []))
        if shape:
            entry[-1].append((shape, attributes))
        elif cells.get(PARTS[1], "").strip() not in ("", "{}"):
            source.problems.report("region that cannot be read", source.place(path, line))
    return list(found.values())


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _object(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return _dict(value)


def _options(content: Any) -> dict[str, list[str]]:
    """The options of each region attribute, in their order."""
    attributes = content.get("_via_attributes") if isinstance(content, dict) else None
    regions = attributes.get("region") if isinstance(attributes, dict) else None
    found = {}
    for key, about in regions.items() if isinstance(regions, dict) else ():
        options = about.get("options") if isinstance(about, dict) else None
        if isinstance(options, dict):
            found[key] = [str(name) for name in options]
    return found


def _attribute(regions: list[dict[str, Any]]) -> str:
    """The attribute that holds the class."""
    counts = Counter(key for region in regions for key, value in region.items() if _label(value))
    if len(counts) <= 1:
        return next(iter(counts), "")
    usual = [key for key in counts if key.lower() in USUAL]
    return max(usual or counts, key=lambda key: counts[key])  # of several the first one


def _label(value: Any) -> str:
    """A text, or the option of a checkbox that is set."""
    if isinstance(value, dict):
        value = next((key for key, on in value.items() if on), "")
    return str(value).strip() if value is not None else ""


def _place(source: Source, thing: Thing, shape: dict[str, Any]) -> bool:
    """Set where a region is; False, and counted, if it is of a kind that is not taken."""
    kind = str(shape.get("name"))
    if kind == "rect":
        values = numbers([shape.get(k) for k in ("x", "y", "width", "height")])
        if values:
            x, y, width, height = values
            thing.box = (x, y, x + width, y + height)
    elif kind == "polygon":
        xs, ys = numbers(shape.get("all_points_x")), numbers(shape.get("all_points_y"))
        if xs and ys and len(xs) == len(ys):
            thing.polygons = [flat(zip(xs, ys, strict=True))]
    elif kind == "circle":
        values = numbers([shape.get(k) for k in ("cx", "cy", "r")])
        if values:
            cx, cy, radius = values
            thing.polygons = [ellipse(cx, cy, radius, radius)]
    elif kind == "ellipse":
        values = numbers([shape.get(k) for k in ("cx", "cy", "rx", "ry")])
        if values:
            cx, cy, rx, ry = values
            thing.polygons = [ellipse(cx, cy, rx, ry, math.degrees(number(shape.get("theta")) or 0.0))]
    else:
        source.problems.report(f"region of the kind {kind[:30]}", thing.where)
        return False
    if thing.box is None and not thing.polygons:
        source.problems.report(f"{kind} without usable numbers", thing.where)
        return False
    return True
