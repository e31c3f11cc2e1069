"""Label Studio's json and json-min: rectangles, polygons, ellipses, brush masks, in percent of the picture.

A rectangle's rotation is in degrees, clockwise, about its left upper corner. The text of a region refers to
it; a text of the whole picture is a caption. Of several annotations of a task the first one that was not
cancelled counts, and of json-min's lines of a task the first one. A task without any is left out: nobody has
said that its picture shows nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
from pycocotools import mask as coco_mask

from ufo.data.errors import DataError
from ufo.data.json_stream import json_records
from ufo.data.labels.brush import brush_mask, brush_rle
from ufo.data.labels.reading import Source, peek
from ufo.data.labels.record import Labels, Picture, Thing
from ufo.data.labels.shapes import around, ellipse, flat, mask_rle, number, pairs_of, points, turned
from ufo.data.labels.writing import free
from ufo.data.problems import DOUBTFUL
from ufo.files import write_json, write_text

ABOUT = "Label Studio json and json-min: rectangles, polygons, ellipses, brushes"
ALIASES = ("labelstudio", "ls", "label_studio_json")
ORDER = 10
SHAPES = ("rectangle", "polygon", "ellipse", "brush")


def recognise(source: Source) -> str:
    return source.sign(_files(source))


def read(source: Source) -> Labels:
    """The tasks of all json files."""
    labels = Labels([], source.problems)
    files = _files(source)
    if not files:
        raise DataError(f"There is no Label Studio json in {source.path}: export the project as JSON.")
    for path in files:
        told: set[str] = set()  # tasks of json-min, which has a line for each annotation
        for place, (_, task) in enumerate(json_records(path), start=1):
            where = f"{source.place(path)}, task {place}"
            if isinstance(task, dict) and "annotation_id" in task:
                if str(task.get("id")) in told:
                    source.problems.report("further annotation of a task", where)
                    continue
                told.add(str(task.get("id")))
            if isinstance(task, dict) and (picture := _picture(source, task, path, where)):
                labels.pictures.append(picture)
    labels.notes.append("classes in the order of the alphabet: the export has no list of them")
    return labels


def _files(source: Source) -> list[Path]:
    """Json files that are lists of tasks."""
    found = []
    for path in source.files(".json"):
        start = peek(path, 1 << 16)
        if start.lstrip().startswith("[") and (
            (
                '"data"' in start
                and ('"annotations"' in start or '"completions"' in start or '"predictions"' in start)
            )
            or 'labels"' in start
        ):
            found.append(path)
    return found


def _picture(source: Source, task: dict[str, Any], path: Path, where: str) -> Picture | None:
    """A task's picture with what was said about it."""
    data = task["data"] if isinstance(task.get("data"), dict) else task
    name = _name(data)
    if name is None:
        source.problems.report("task without a picture", where)
        return None
    split = source.split(path)
    found = source.find(name, path.parent, split)
    results = _results(source, task, where)
    if results is None:
        return None
    picture = source.open(found, f"{where}: {name[:200]}", size=_original(results), split=split, exact=False)
    if picture is None:
        return None
    texts: dict[Any, str] = {}
    regions = {str(r.get("id")) for r in results if _kind(r) in SHAPES}
    for result in results:
        if result.get("type") == "textarea":
            said = " ".join(_texts(result))
            key = next(
                (k for k in (str(result.get("id")), str(result.get("parentID"))) if k in regions), None
            )
            if key is not None:
                texts[key] = said
            elif said:
                picture.captions.append(said)
    labelled = {(str(r.get("id")), _kind(r)) for r in results if _labels(r)}
    for place, result in enumerate(results, start=1):
        at, kind, names = f"{where}, result {place}", _kind(result), _labels(result)
        if kind is None:
            if result.get("type") != "textarea":
                source.problems.report(f"result of the kind {str(result.get('type'))[:30]}", at)
            continue
        if result.get("type") == "textarea" or (not names and (str(result.get("id")), kind) in labelled):
            continue  # the same region stands there once more, with its labels
        thing = _thing(source, result, kind, picture.size, at)
        if thing is not None:
            if len(names) > 1:
                source.problems.report("further label of one region", at, number=len(names) - 1)
            thing.label, thing.text = (names or [""])[0].strip(), texts.get(str(result.get("id")), "")
            picture.things.append(thing)
    return picture


def _results(source: Source, task: dict[str, Any], where: str) -> list[dict[str, Any]] | None:
    """The results of the annotation that counts, None without any; of json-min, of all its keys."""
    given = task.get("annotations", task.get("completions"))
    if not isinstance(given, list):
        return list(_short_results(task))
    done = [a for a in given if isinstance(a, dict) and not a.get("was_cancelled")]
    done.sort(key=lambda a: not a.get("ground_truth"))
    if len(done) > 1:
        source.problems.report("further annotation of a task", where, number=len(done) - 1)
    if cancelled := len(given) - len(done):
        source.problems.report("cancelled annotation", where, number=cancelled)
    if not done:
        predicted = "task with predictions only, which are not taken"
        source.problems.report(predicted if task.get("predictions") else "task without an annotation", where)
        return None
    results = done[0].get("result")
    return [r for r in results if isinstance(r, dict)] if isinstance(results, list) else []


def _short_results(task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Json-min: the values themselves, in lists under the names of the tags."""
    for key, entries in task.items():
        if isinstance(entries, str) and key in ("caption", "text", "description"):
            yield {"type": "textarea", "value": {"text": [entries]}}
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict):
                sizes = {k: entry.get(k) for k in ("original_width", "original_height")}
                kind = next((k for k in entry if k.endswith("labels")), None)
                yield {"type": kind, "value": entry, **sizes}


def _name(data: dict[str, Any]) -> str | None:
    """The text among a task's data that is the path of a picture."""
    texts = [data.get(k) for k in ("image", "img", "image_url", "url", "picture")] + list(data.values())
    return next((t for t in texts if isinstance(t, str) and "." in t and ("/" in t or len(t) < 300)), None)


def _original(results: Sequence[dict[str, Any]]) -> tuple[Any, Any] | None:
    return next(
        ((r["original_height"], r.get("original_width")) for r in results if r.get("original_height")), None
    )


def _value(result: dict[str, Any]) -> dict[str, Any]:
    value = result.get("value")
    return value if isinstance(value, dict) else {}


def _kind(result: dict[str, Any]) -> str | None:
    """rectangle, polygon, ellipse or brush, by what the value has: the tag `Labels` hides it."""
    value = _value(result)
    if "rle" in value:
        return "brush"
    if "points" in value:
        return "polygon"
    if "radiusX" in value:
        return "ellipse"
    return "rectangle" if {"x", "y", "width", "height"} <= value.keys() else None


def _labels(result: dict[str, Any]) -> list[str]:
    return [
        str(name)
        for key, names in _value(result).items()
        if key.endswith("labels") and isinstance(names, list)
        for name in names
    ]


def _texts(result: dict[str, Any]) -> list[str]:
    text = _value(result).get("text")
    return [text] if isinstance(text, str) else [t for t in text or () if isinstance(t, str)]


def _thing(
    source: Source, result: dict[str, Any], kind: str, size: tuple[int, int], where: str
) -> Thing | None:
    value, thing = _value(result), Thing("", where=where)
    if number(result.get("image_rotation") or 0):
        source.problems.report("region of a picture that was turned in Label Studio", where)
        return None
    height, width = size
    if kind == "brush":
        try:
            thing.rle = mask_rle(brush_mask(value["rle"], size))
        except ValueError as error:
            source.problems.report(str(error), where)
            return None
        return thing
    if kind == "polygon":
        pairs = points(value.get("points"))
        if pairs is None:
            source.problems.report("polygon without usable points", where)
            return None
        thing.polygons = [flat((x * width / 100, y * height / 100) for x, y in pairs)]
        return thing
    keys = ("x", "y", "width", "height") if kind == "rectangle" else ("x", "y", "radiusX", "radiusY")
    found = [number(value.get(key)) for key in keys]
    degrees = number(value.get("rotation") or 0) or 0.0
    if None in found:
        source.problems.report(f"{kind} without usable numbers", where)
        return None
    x, y, w, h = (v * side / 100 for v, side in zip(found, (width, height) * 2, strict=True) if v is not None)
    if w < 0 or h < 0:
        source.problems.report(f"{kind} of negative size", where)
        return None
    if kind == "ellipse":
        thing.polygons = [ellipse(x, y, w, h, degrees)]
    else:
        corners = ((x, y), (x + w, y), (x + w, y + h), (x, y + h))
        thing.box = around(turned(corners, degrees, (x, y)))
        if degrees:
            source.problems.report("turned box, of which the enclosing one is taken", where, effect=DOUBTFUL)
    return thing


# --- predictions for it


def write(
    pictures: Sequence[Picture],
    out: Path,
    *,
    names: Sequence[str],
    model_version: str = "ufo",
    prefix: str = "/data/local-files/?d=",
    force: bool = False,
    **_: Any,
) -> list[Path]:
    """`tasks.json` to be imported, and `label_config.xml` with the tags that it names."""
    paths = free([out / "tasks.json", out / "label_config.xml"], force)
    tasks = []
    for picture, name in zip(pictures, names, strict=True):
        results = [
            r for place, thing in enumerate(picture.things) for r in _written(thing, picture.size, place)
        ]
        scores = [thing.score for thing in picture.things if thing.score is not None]
        prediction: dict[str, Any] = {"model_version": model_version, "result": results}
        prediction |= {"score": round(sum(scores) / len(scores), 5)} if scores else {}
        tasks.append({"data": {"image": prefix + quote(name)}, "predictions": [prediction]})
    write_json(paths[0], tasks)
    labels = dict.fromkeys(thing.label for picture in pictures for thing in picture.things)
    values = "".join(f"    <Label value={quoteattr(label)}/>\n" for label in labels)
    tags = "".join(
        f'  <{tag} name="{name}" toName="image">\n{values}  </{tag}>\n'
        for tag, name in (("RectangleLabels", "box"), ("PolygonLabels", "polygon"), ("BrushLabels", "brush"))
    )
    write_text(paths[1], f'<View>\n  <Image name="image" value="$image"/>\n{tags}</View>\n')
    return paths


def _written(thing: Thing, size: tuple[int, int], place: int) -> Iterator[dict[str, Any]]:
    """The results of one object: its polygons, else its mask, else its box."""
    height, width = size
    head = {"to_name": "image", "original_width": width, "original_height": height, "image_rotation": 0}
    head |= {} if thing.score is None else {"score": thing.score}
    if thing.polygons:
        for part, polygon in enumerate(thing.polygons):
            shares = [[x * 100 / width, y * 100 / height] for x, y in pairs_of(polygon)]
            value: dict[str, Any] = {"points": shares, "closed": True, "polygonlabels": [thing.label]}
            kind = {"type": "polygonlabels", "from_name": "polygon"}
            yield {"id": f"object{place}_{part}", **kind, **head, "value": value}
    elif thing.rle is not None:
        mask = np.asarray(coco_mask.decode(thing.rle))
        value = {"format": "rle", "rle": brush_rle(mask), "brushlabels": [thing.label]}
        yield {"id": f"object{place}", "type": "brushlabels", "from_name": "brush", **head, "value": value}
    else:
        x1, y1, x2, y2 = thing.box or (0.0, 0.0, 0.0, 0.0)
        value = {
            "x": x1 * 100 / width,
            "y": y1 * 100 / height,
            "width": (x2 - x1) * 100 / width,
            "height": (y2 - y1) * 100 / height,
            "rotation": 0,
            "rectanglelabels": [thing.label],
        }
        yield {"id": f"object{place}", "type": "rectanglelabels", "from_name": "box", **head, "value": value}
