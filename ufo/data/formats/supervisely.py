"""Supervisely: `meta.json` with the classes, and per data set `ann/NAME.json` beside `img/NAME`.

Rectangle, polygon (with holes) and bitmap (a PNG, packed with zlib, in base64). Corners of rectangles are
whole pixels, of which the last one belongs to the object. A data set or tag called train or val is a split.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ufo.data.errors import DataError
from ufo.data.labels.reading import Source, json_of, peek
from ufo.data.labels.record import Labels, Picture, Thing, split_of
from ufo.data.labels.shapes import corners, flat, mask_rle, packed_mask, pasted, points, polygons_rle, unpack

ABOUT = "Supervisely projects: meta.json and ann/*.json with rectangles, polygons, bitmaps"
ALIASES = ("sly", "supervisely_json")
ORDER = 10
MAX_JSON = 256 << 20


def recognise(source: Source) -> str:
    found = source.first("meta.json")
    if found and '"classes"' in peek(found, 1 << 16):
        return source.place(found)
    return source.sign(p for p in _files(source)[:20] if '"classTitle"' in peek(p, 1 << 16))


def read(source: Source) -> Labels:
    """All files in folders called `ann`."""
    labels = Labels([], source.problems)
    if meta := source.first("meta.json"):
        content = json_of(meta, MAX_JSON)
        classes = content.get("classes") if isinstance(content, dict) else None
        for entry in classes if isinstance(classes, list) else ():
            if isinstance(entry, dict):
                labels.add_class(str(entry.get("title", "")).strip())
    for path in _files(source):
        try:
            content = json_of(path, MAX_JSON)
        except DataError as error:
            source.problems.report("file that cannot be read", str(error))
            continue
        if not isinstance(content, dict) or not isinstance(content.get("objects"), list):
            source.problems.report("json file without `objects`", source.place(path))
            continue
        if picture := _picture(source, content, path):
            labels.pictures.append(picture)
    return labels


def _files(source: Source) -> list[Path]:
    return [path for path in source.files(".json") if path.parent.name == "ann"]


def _picture(source: Source, content: dict[str, Any], path: Path) -> Picture | None:
    images = path.parent.with_name("img")
    found = source.find(path.stem, images) or source.with_stem(path.stem, images)  # a.jpg.json, or a.json
    size, tags = content.get("size"), content.get("tags")
    names = [
        str(tag.get("name")) for tag in (tags if isinstance(tags, list) else ()) if isinstance(tag, dict)
    ]
    split = next((split_of(name) for name in (path.parent.parent.name, *names) if split_of(name)), "")
    shape = (size.get("height"), size.get("width")) if isinstance(size, dict) else None
    picture = source.open(found, source.place(path), size=shape, split=split)
    if picture is None:
        return None
    if others := [name for name in names if not split_of(name)]:
        source.problems.report("tag of a whole picture", source.place(path), number=len(others))
    if isinstance(said := content.get("description"), str) and said.strip():
        picture.captions.append(said.strip())
    for place, entry in enumerate(content["objects"], start=1):
        where = f"{source.place(path)}, object {place}"
        thing = _thing(source, entry, picture, where) if isinstance(entry, dict) else None
        if thing is not None:
            picture.things.append(thing)
    return picture


def _thing(source: Source, entry: dict[str, Any], picture: Picture, where: str) -> Thing | None:
    kind, text = str(entry.get("geometryType")), entry.get("description")
    thing = Thing(
        str(entry.get("classTitle") or "").strip(), where=where, text=text if isinstance(text, str) else ""
    )
    shape: Any = entry.get("points")
    shape = shape if isinstance(shape, dict) else {}
    outer = points(shape.get("exterior"))
    try:
        if kind == "rectangle" and outer and len(outer) == 2:
            x1, y1, x2, y2 = corners(*outer)
            height, width = picture.size
            thing.box = (x1, y1, min(x2 + 1, max(width, x2)), min(y2 + 1, max(height, y2)))
        elif kind == "polygon" and outer:
            inner = [
                hole for entry in shape.get("interior") or () if (hole := points(entry)) and len(hole) > 2
            ]
            if inner and len(outer) > 2:
                holes = [flat(hole) for hole in inner]
                thing.rle = polygons_rle([flat(outer)], picture.size, holes)
            else:
                thing.polygons = [flat(outer)]
        elif kind in ("bitmap", "alpha_mask"):
            thing.rle = _bitmap(entry.get(kind) or entry.get("bitmap"), picture.size)
        else:
            source.problems.report(f"figure of the kind {kind[:30]}", where)
            return None
    except ValueError as error:
        source.problems.report(str(error)[:80], where)
        return None
    return thing


def _bitmap(bitmap: Any, size: tuple[int, int]) -> dict[str, Any]:
    """The RLE of a packed PNG at its `origin`."""
    origin = points([bitmap.get("origin")]) if isinstance(bitmap, dict) else None
    if not origin:
        raise ValueError("bitmap without an origin")
    left, top = origin[0]
    mask = packed_mask(unpack(bitmap.get("data"), compressed=True))
    return mask_rle(pasted(mask, int(left), int(top), size))
