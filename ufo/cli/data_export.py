"""`ufo data export`: predictions as pre-annotations for a label tool, to be corrected and imported again.

The predictions are what `ufo predict --json` and `evaluate.py predictions=` write.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ufo.cli import CommandError
from ufo.cli.data_import import say_problems
from ufo.cli.data_place import short
from ufo.cli.ids import id_records
from ufo.data.datasets.coco_file import key_of
from ufo.data.formats import Format, format_named, formats
from ufo.data.json_lines import holds_lines, read_lines
from ufo.data.json_stream import EMPTY, json_records
from ufo.data.labels.outline import outlines
from ufo.data.labels.reading import Source, bounded, json_of, peek
from ufo.data.labels.record import Picture, Thing
from ufo.data.labels.shapes import checked_rle, number, numbers, polygons_rle
from ufo.data.labels.sources import BOX_TEXTS, BOXES, MASK_TEXTS, MASKS
from ufo.data.labels.tidy import UNWRITABLE, misplaced
from ufo.data.problems import DOUBTFUL
from ufo.data.texts import is_writable
from ufo.ops.nearest import beside

PREFERRED = (MASKS, BOXES, MASK_TEXTS, BOX_TEXTS)


def run(args: argparse.Namespace) -> int:
    """Write the files of the tool; says where they are and what was left out."""
    tool = writing_format(args.format)
    if not args.images.is_dir():
        raise CommandError(f"--images {args.images} is not a folder{beside(args.images)}")
    if not args.predictions.is_file():
        raise CommandError(f"there is no file {args.predictions}{beside(args.predictions)}")
    source = Source(args.predictions, args.images)
    names, classes = _ids(args.ids) if args.ids else ({}, {})
    pictures: dict[Path, Picture] = {}
    below = 0
    for place, record in enumerate(_records(args.predictions, args.task)):
        where = f"record {place}"
        score = number(record.get("score"))
        if score is not None and score < args.score:
            below += 1
            continue
        picture = _picture(source, record, names, where, pictures)
        thing = None if picture is None else _thing(source, record, picture, classes, where)
        if picture is not None and thing is not None:
            if args.polygons:
                _to_polygons(source, thing, where)
            if len(thing.polygons) > 1 and not tool.parts:
                _to_mask(source, thing, picture, where)
            picture.things.append(thing)
    chosen = [pictures[path] for path in sorted(pictures) if pictures[path].things]
    if not chosen and not below and not source.problems.counts:
        raise CommandError(
            f"{args.predictions} holds no prediction; `ufo predict` writes those from its own --score on, "
            "so give it a lower one, or train for longer"
        )
    if not chosen:
        raise CommandError(
            f"no prediction of {args.predictions} is left: {below:,} are below --score {args.score:g}; "
            f"{source.problems.summary()}"
        )
    _write(tool, chosen, args)
    things = sum(len(picture.things) for picture in chosen)
    print(f"{things:,} objects in {len(chosen):,} pictures ({below:,} below --score {args.score:g})")
    say_problems(source.problems)
    return 0


def writing_format(name: str) -> Format:
    """The format of a name, if it can be written. Raises DataError, which names those that can."""
    return format_named(name, {key: known for key, known in formats().items() if known.write})


def _write(tool: Format, pictures: list[Picture], args: argparse.Namespace) -> None:
    assert tool.write is not None  # by `writing_format`
    images = args.images.absolute()
    names = [picture.path.absolute().relative_to(images).as_posix() for picture in pictures]
    options = {"names": names, "model_version": args.model_version, "prefix": args.prefix}
    options = {key: value for key, value in options.items() if value is not None}
    written = tool.write(pictures, args.out.absolute(), force=args.force, **options)
    print(f"written: {', '.join(short(path) for path in written[:3])}{', ...' if len(written) > 3 else ''}")


# --- predictions


def _records(path: Path, task: str | None) -> Iterator[dict[str, Any]]:
    """The records of a list or of lines, or of one task of `--task any`'s lists by task."""
    if holds_lines(bounded(path)):
        yield from (record for _, record in read_lines(path))
        return
    if peek(bounded(path), 64).lstrip().startswith("["):
        found = [record for _, record in json_records(path) if record is not EMPTY]
    else:
        content = json_of(path)
        tasks = content if isinstance(content, dict) else {}
        known = [key for key, records in tasks.items() if isinstance(records, list)]
        if not known:
            raise CommandError(f"{path} holds no predictions: a list of records is expected")
        if task is not None and task not in known:
            raise CommandError(f"{path} has no predictions of {task}; it has {', '.join(known)}")
        chosen = task or next((key for key in PREFERRED if content.get(key)), known[0])
        print(f"taken: the predictions of {chosen}" + ("" if task else f" (--task: {', '.join(known)})"))
        found = content[chosen]
    for place, record in enumerate(found, start=1):
        if not isinstance(record, dict):
            raise CommandError(f"{path}, record {place} is not a JSON object in {{...}}")
        yield record


def _ids(path: Path) -> tuple[dict[Any, str], dict[Any, str]]:
    """File names by image id and class names by category id, of a COCO json."""
    names, classes = {}, {}
    for section, record in id_records(bounded(path)):
        if section == "categories":
            classes[key_of(record, "id")] = str(record["name"])
        elif "file_name" in record:
            names[key_of(record, "id")] = str(record["file_name"])
    return names, classes


def _picture(
    source: Source,
    record: dict[str, Any],
    names: dict[Any, str],
    where: str,
    pictures: dict[Path, Picture],
) -> Picture | None:
    """The picture of a record: by its file name, else by its id."""
    key = key_of(record, "image_id")
    name = record.get("file_name") or names.get(key)
    found = source.find(name) if isinstance(name, str) else source.with_stem(str(key))
    if found in pictures:
        return pictures[found]
    picture = source.open(found, f"{where}: {name or key}")
    if picture is not None:
        pictures[picture.path] = picture
    return picture


def _thing(
    source: Source, record: dict[str, Any], picture: Picture, classes: dict[Any, str], where: str
) -> Thing | None:
    label = record.get("category") or classes.get(key_of(record, "category_id")) or record.get("text")
    if not isinstance(label, str) or not label.strip():
        source.problems.report("record without a class name (--ids names those of a COCO json)", where)
        return None
    thing = Thing(label.strip(), where=where, score=number(record.get("score")))
    if box := numbers(record.get("bbox"), 4):
        x, y, width, height = box
        thing.box = (x, y, x + width, y + height)
    shape = record.get("segmentation")
    if isinstance(shape, dict):
        try:
            thing.rle = checked_rle(shape, picture.size)
        except (TypeError, ValueError) as error:
            source.problems.report(str(error)[:80] or "unreadable mask", where)
    elif isinstance(shape, list):
        polygons = [numbers(polygon) for polygon in shape]
        thing.polygons = [p for p in polygons if p is not None and len(p) >= 6 and len(p) % 2 == 0]
    if thing.box is None and thing.rle is None and not thing.polygons:
        source.problems.report("record without a box or mask", where)
        return None
    problem = UNWRITABLE if not is_writable(thing.label) else None
    if thing.box is not None:
        problem = problem or misplaced(picture, thing)
    if problem:
        source.problems.report(problem, where)
        return None
    return thing


def _to_mask(source: Source, thing: Thing, picture: Picture, where: str) -> None:
    """Several polygons as one mask, for tools in which each of them would be an object."""
    thing.rle, thing.polygons = polygons_rle(thing.polygons, picture.size), []
    source.problems.report("object of several parts, written as a mask", where, effect=DOUBTFUL)


def _to_polygons(source: Source, thing: Thing, where: str) -> None:
    """A mask's outlines in its place."""
    if thing.rle is None:
        return
    from pycocotools import mask as coco_mask

    thing.polygons, holes = outlines(coco_mask.decode(thing.rle))
    thing.rle = None if thing.polygons else thing.rle
    if holes:
        source.problems.report("hole of a mask, filled", where, effect=DOUBTFUL, number=holes)
