"""What of the labels cannot be used is left out, counted and named; the rest gets boxes and classes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ufo.data.datasets.coco_file import LEAVING, leaves_image
from ufo.data.errors import DataError
from ufo.data.labels.record import Labels, Picture, Thing
from ufo.data.labels.shapes import area, around, pairs_of, rle_area, rle_box
from ufo.data.problems import DOUBTFUL, NEGATIVE_SIZE
from ufo.data.texts import is_writable, usable_text

UNWRITABLE = "class name with control characters or half characters"


def tidy(labels: Labels, classes: Sequence[str] | None = None) -> None:
    """Leave out what cannot be used; `classes` are the only ones that count, in their order.

    Raises DataError if nothing is left.
    """
    _merge(labels)
    for name in sorted({name for name in labels.classes if name.strip() and labels.classes.count(name) > 1}):
        labels.notes.append(f"class {name!r} is listed {labels.classes.count(name)} times, and taken as one")
    labels.classes = list(dict.fromkeys(labels.classes))
    if classes is not None:
        labels.classes = list(classes)
    else:
        labels.classes = [name for name in labels.classes if name.strip() and is_writable(name)]
        names = {
            thing.label for picture in labels.pictures for thing in picture.things if thing.label.strip()
        }
        names = {name for name in names if is_writable(name)}
        labels.classes += sorted(names - set(labels.classes))
    known = set(labels.classes)
    for picture in labels.pictures:
        usable = [thing for thing in picture.things if _usable(labels, picture, thing, known)]
        picture.things = _once(labels, picture, usable)
        picture.captions = [text for text in picture.captions if _said(labels, picture, text)]
    if not any(p.things or p.captions or p.class_map for p in labels.pictures):
        problems = labels.problems
        why = problems.summary() if problems.left_out else "the files name no object"
        raise DataError(f"Nothing can be imported from {problems.source}: {why}.")


def _once(labels: Labels, picture: Picture, things: Sequence[Thing]) -> list[Thing]:
    """The objects without those that stand there twice: they would count twice in training and in scores."""
    found: dict[str, Thing] = {}
    for thing in things:
        first = found.setdefault(repr((thing.label, thing.box, thing.polygons, thing.rle, thing.text)), thing)
        if first is not thing:
            labels.problems.report("object that stands there twice", thing.where or picture.path.name)
    return list(found.values())


def _merge(labels: Labels) -> None:
    """One entry for each picture; two splits must not have the same one."""
    found: dict[str, Picture] = {}
    again: dict[tuple[str, str], dict[str, Picture]] = {}  # by split and the one that has a picture already
    for picture in labels.pictures:
        path = str(picture.path.absolute())
        first = found.setdefault(path, picture)
        if first is picture:
            continue
        if picture.split and first.split and picture.split != first.split:
            again.setdefault((picture.split, first.split), {})[path] = picture
        if picture.things != first.things:  # else one text file, read for both splits
            first.things += picture.things
        first.captions += [text for text in picture.captions if text not in first.captions]
        first.class_map = first.class_map or picture.class_map
        first.labelled = first.labelled or picture.labelled
    for (split, first_split), pictures in again.items():
        _say_shared(labels, split, first_split, list(pictures.values()))
    labels.pictures = sorted(found.values(), key=lambda picture: str(picture.path))


def _say_shared(labels: Labels, split: str, first: str, shared: Sequence[Picture]) -> None:
    """Say that a split has pictures of another, before which they are kept: some, or all that it has."""
    whole = {picture.path.absolute() for picture in labels.pictures if picture.split == split}
    if len(shared) == len(whole):
        labels.notes.append(
            f"all {len(shared):,} pictures of {split} are those of {first} as well; each is taken once, so "
            f"nothing is left of {split} and another split is made (--val 0 validates on the training "
            "pictures)"
        )
        return
    for picture in shared:
        labels.problems.report("picture in two splits, kept in the first", picture.path.name, effect=DOUBTFUL)


def _usable(labels: Labels, picture: Picture, thing: Thing, known: set[str]) -> bool:
    """Whether an object counts; it gets its box, and loses polygons without area."""
    where = thing.where or picture.path.name
    problem = None
    if not thing.label.strip():
        problem = "object without a class"
    elif not is_writable(thing.label):
        problem = UNWRITABLE
    elif thing.label not in known:
        problem = f"object of class {thing.label[:60]!r}, which is not among the classes"
    else:
        problem = _shape(labels, thing, where) or misplaced(picture, thing)
        thing.text, unsaid = usable_text(thing.text, train=True)
        if unsaid:
            labels.problems.report(unsaid, where)
    if problem:
        labels.problems.report(problem, where)
    elif thing.box is not None:
        x1, y1, x2, y2 = thing.box
        if leaves_image((x1, y1, x2 - x1, y2 - y1), picture.size):
            labels.problems.report(LEAVING, where, effect=DOUBTFUL)
    return not problem


def _shape(labels: Labels, thing: Thing, where: str) -> str | None:
    """Keep the shapes that have an area. Returns what is wrong if none is left."""
    kept = [p for p in thing.polygons if len(p) >= 6 and all(map(math.isfinite, p)) and area(p) > 0]
    lost = len(thing.polygons) - len(kept)
    thing.polygons = kept
    if thing.rle is not None and rle_area(thing.rle) == 0:
        thing.rle, lost = None, lost + 1
    if thing.box is None and thing.rle is not None:
        thing.box = rle_box(thing.rle)
    if thing.box is None and kept:
        thing.box = around(pair for polygon in kept for pair in pairs_of(polygon))
    if thing.box is None:
        return "empty polygon or mask" if lost else "object without a box or shape"
    if lost:
        beside = "others" if kept or thing.rle is not None else "a box, which counts alone"
        kind = f"empty polygon or mask beside {beside}"
        labels.problems.report(kind, where, effect=DOUBTFUL, number=lost)
    return None


def misplaced(picture: Picture, thing: Thing) -> str | None:
    """What is wrong with an object's box as a part of its picture."""
    height, width = picture.size
    x1, y1, x2, y2 = thing.box or (0.0, 0.0, 0.0, 0.0)
    if x1 > x2 or y1 > y2:
        return NEGATIVE_SIZE
    if x1 == x2 or y1 == y2:
        return "box without area"
    if min(x2, width) <= max(x1, 0) or min(y2, height) <= max(y1, 0):
        return "box outside its picture"
    return None


def _said(labels: Labels, picture: Picture, text: str) -> bool:
    said, problem = usable_text(text, train=True)
    problem = problem or (None if said.strip() else "empty caption")
    if problem:
        labels.problems.report(problem, picture.path.name)
    return not problem
