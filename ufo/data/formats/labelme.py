"""LabelMe: a json per picture with shapes: polygon, rectangle, circle, mask; the picture may be inside.

Shapes of one `group_id` and label are one object. A shape's `description` is a text that refers to it.
`labels.txt` (one class per line, as LabelMe's own option takes it) gives the order of the classes.
"""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from pycocotools import mask as coco_mask

from ufo.data.errors import DataError
from ufo.data.labels.reading import Source, json_of, lines_of, peek
from ufo.data.labels.record import Labels, Picture, Thing
from ufo.data.labels.shapes import (
    around,
    corners,
    ellipse,
    flat,
    mask_rle,
    packed_mask,
    packed_suffix,
    pairs_of,
    pasted,
    points,
    rle_box,
    unpack,
)
from ufo.data.labels.writing import free
from ufo.data.problems import DOUBTFUL
from ufo.files import write_json

ABOUT = "LabelMe json files: polygons, rectangles, circles, masks"
ALIASES = ("anylabeling", "x_anylabeling", "wkentaro")
ORDER = 10
MAX_JSON = 256 << 20
PARTS = True
"""Several polygons can be one object here."""


def recognise(source: Source) -> str:
    return source.sign(p for p in source.files(".json")[:50] if _is_labelme(p))


def read(source: Source) -> Labels:
    """Every json with shapes."""
    labels = Labels([], source.problems)
    if listed := source.first("labels.txt"):
        names = [line.strip() for line in lines_of(listed)]
        labels.classes = [name for name in names if name and name not in ("__ignore__", "_background_")]
    for path in source.files(".json"):
        try:
            content = json_of(path, MAX_JSON)
        except DataError as error:
            source.problems.report("file that cannot be read", str(error))
            continue
        if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
            source.problems.report("json file without `shapes`", source.place(path))
            continue
        picture = _picture(source, content, path)
        if picture is None:
            continue
        if any((content.get("flags") or {}).values() if isinstance(content.get("flags"), dict) else ()):
            source.problems.report("flag of a whole picture", source.place(path))
        picture.things = _things(source, content["shapes"], picture, path)
        labels.pictures.append(picture)
    return labels


def _is_labelme(path: Path) -> bool:
    start = peek(path, 1 << 16)
    return '"shapes"' in start or ('"imageData"' in start and '"imagePath"' in start)


def _picture(source: Source, content: dict[str, Any], path: Path) -> Picture | None:
    """The picture that the file names or holds."""
    said = str(content.get("imagePath") or "")
    found = source.own(said, path)
    if found is None and content.get("imageData"):
        try:
            packed = unpack(content["imageData"])
            inside = path.relative_to(source.folder).with_suffix("").as_posix().replace("/", "_")
            found = source.keep(inside + packed_suffix(packed), packed)
        except ValueError as error:
            source.problems.report(str(error), source.place(path))
            return None
        source.problems.report(
            "picture that only the json holds, written as a file", source.place(path), effect=DOUBTFUL
        )
    split = source.split(path, stem=False)
    size = (content.get("imageHeight"), content.get("imageWidth"))
    return source.open(found, f"{source.place(path)}: {said}", size=size, split=split)


def _things(source: Source, shapes: list[Any], picture: Picture, path: Path) -> list[Thing]:
    """The objects; shapes of one group are one."""
    groups: dict[Any, Thing] = {}
    found = []
    for place, shape in enumerate(shapes, start=1):
        where = f"{source.place(path)}, shape {place}"
        thing = _thing(source, shape, picture, where) if isinstance(shape, dict) else None
        if thing is None:
            continue
        group = shape.get("group_id")
        if isinstance(group, (int, str)) and thing.polygons:
            first = groups.setdefault((group, thing.label), thing)
            if first is not thing:
                first.polygons += thing.polygons
                continue
        found.append(thing)
    return found


def _thing(source: Source, shape: dict[str, Any], picture: Picture, where: str) -> Thing | None:
    kind, pairs = str(shape.get("shape_type") or "polygon"), points(shape.get("points"))
    text = shape.get("description")
    thing = Thing(
        str(shape.get("label") or "").strip(), where=where, text=text if isinstance(text, str) else ""
    )
    if pairs is None or not pairs:
        source.problems.report("shape without points", where)
    elif kind == "polygon":
        thing.polygons = [flat(pairs)]
        return thing
    elif kind == "rectangle":
        thing.box = corners(pairs[0], pairs[1]) if len(pairs) == 2 else around(pairs)
        return thing
    elif kind == "rotation":
        thing.box = around(pairs)
        source.problems.report("turned box, of which the enclosing one is taken", where, effect=DOUBTFUL)
        return thing
    elif kind == "circle" and len(pairs) == 2:
        radius = math.dist(*pairs)
        thing.polygons = [ellipse(*pairs[0], radius, radius)]
        return thing
    elif kind == "mask":
        try:
            mask = packed_mask(unpack(shape.get("mask")))
        except ValueError as error:
            source.problems.report(str(error), where)
            return None
        left, top = (round(value) for value in pairs[0])
        thing.rle = mask_rle(pasted(mask, left, top, picture.size))
        return thing
    else:
        source.problems.report(f"shape of the kind {kind[:30]}", where)
    return None


# --- predictions for it


def write(
    pictures: Sequence[Picture], out: Path, *, names: Sequence[str], force: bool = False, **_: Any
) -> list[Path]:
    """A json per picture, in `out` as the pictures lie in their folder, with the score in every shape."""
    paths = free([(out / name).with_suffix(".json") for name in names], force)
    for picture, path in zip(pictures, paths, strict=True):
        height, width = picture.size
        content: dict[str, Any] = {
            "version": "5.5.0",
            "flags": {},
            "shapes": [s for group, thing in enumerate(picture.things, 1) for s in _shapes(thing, group)],
            "imagePath": os.path.relpath(picture.path, path.parent),
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        write_json(path, content, indent=2)
    return paths


def _shapes(thing: Thing, group: int) -> list[dict[str, Any]]:
    """The shapes of an object: its polygons, else its mask, else its box."""
    head: dict[str, Any] = {"label": thing.label, "group_id": None, "description": "", "flags": {}}
    head |= {"score": thing.score}
    if thing.polygons:
        together = {"group_id": group} if len(thing.polygons) > 1 else {}
        return [
            {**head, **together, "shape_type": "polygon", "points": [list(p) for p in pairs_of(polygon)]}
            for polygon in thing.polygons
        ]
    if thing.rle is not None:
        left, top, right, bottom = (round(v) for v in rle_box(thing.rle))
        mask = coco_mask.decode(thing.rle)[top:bottom, left:right]
        ends = [[left, top], [right - 1, bottom - 1]]
        return [{**head, "shape_type": "mask", "points": ends, "mask": _png(mask)}]
    x1, y1, x2, y2 = thing.box or (0, 0, 0, 0)
    return [{**head, "shape_type": "rectangle", "points": [[x1, y1], [x2, y2]]}]


def _png(mask: np.ndarray) -> str:
    """A mask as LabelMe keeps it: a PNG of one bit a pixel in base64."""
    file = io.BytesIO()
    PIL.Image.fromarray(mask.astype(bool)).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")
