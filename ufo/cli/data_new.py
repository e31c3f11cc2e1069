"""`ufo data new`: the yaml of a source for data that need no conversion, checked at once.

`coco` takes a COCO json, `maps` a folder of label maps, `jsonl` a JSONL. Where no second file is given for
the validation, the data are divided, by a hash of the pictures' names, into two files in a folder of their
own.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ufo.cli import CommandError
from ufo.cli.data_import import class_names
from ufo.cli.data_place import (
    check_free,
    check_sources,
    new_folder,
    note,
    place_for,
    say_next,
    short,
    source_texts,
    write_sources,
)
from ufo.data.image_files import IMAGE_SUFFIXES
from ufo.data.json_lines import read_lines
from ufo.data.json_stream import EMPTY, json_records
from ufo.data.labels.finding import walk
from ufo.data.labels.sources import BOX_TEXTS, BOXES, CLASS_MAPS, MASK_TEXTS, MASKS, TALKS, SourceFile
from ufo.data.labels.split import SHARE, chosen_by_hash
from ufo.data.pictures import MAP_SUFFIXES
from ufo.files import write_json, write_text, writing
from ufo.ops.nearest import beside

COCO_TASKS = (BOXES, MASKS)


def run(args: argparse.Namespace) -> int:
    """Write the source, or two with masks, and check them. 1 if one is not usable."""
    images = _there(args.pictures, "the folder of the pictures", folder=True)
    data = _there(args.data, "MAPS" if args.kind == "maps" else "the file", folder=args.kind == "maps")
    if args.val_data:
        _there(args.val_data, "--val-data", folder=args.kind == "maps")
    if args.val_images:
        _there(args.val_images, "--val-images", folder=True)
    if args.val is not None and args.val_data:
        raise CommandError("--val divides the data and --val-data names the other part; give one of them")
    place = place_for(data, args.out, args.name_)
    build = {"coco": _coco, "maps": _maps, "jsonl": _jsonl}[args.kind]
    given = [images, data, *(path for path in (args.val_data, args.val_images) if path)]
    with new_folder(place, given, args.force) as scratch:
        sources, how = build(args, images, data, scratch)
        about = " ".join(f"written by `ufo data new {args.kind}` for {data}".split())
        texts = source_texts(place, sources, images, about)
        check_free(texts, place, args.force)
        note(scratch, texts, kind=args.kind, images=str(images), data=str(data), split=how)
    write_sources(texts)
    print(f"split: {how}")
    print(f"written: {', '.join(short(path) for path in texts)}")
    code = check_sources(list(texts), args)
    if not code:
        say_next(place, list(texts))
    return code


def _there(path: Path, what: str, folder: bool) -> Path:
    path = path.absolute()
    if path.is_dir() if folder else path.is_file():
        return path
    kind = "folder" if folder else "file"
    raise CommandError(f"{what}: {path} is no {kind}{beside(path)}")


def _parts(args: argparse.Namespace, data: Path) -> tuple[dict[str, Any], dict[str, Any], str] | None:
    """The arguments `annotations` of both splits where nothing needs to be divided."""
    if args.val_data:
        other: dict[str, Any] = {"annotations": str(args.val_data.absolute())}
        if args.val_images:
            other["images"] = str(args.val_images.absolute())
        return {"annotations": str(data)}, other, "the two files that were named"
    if args.val == 0:
        return {"annotations": str(data)}, {"annotations": str(data)}, "validation on the training pictures"
    return None


def _how(args: argparse.Namespace, chosen: Sequence[bool]) -> str:
    share = SHARE if args.val is None else args.val
    held = sum(chosen)
    return f"{share:.0%} by a hash of the file names: {len(chosen) - held:,} train, {held:,} val"


def _share(args: argparse.Namespace) -> float:
    return SHARE if args.val is None else float(args.val)


# --- COCO


def _coco(args: argparse.Namespace, images: Path, data: Path, scratch: Path) -> tuple[list[SourceFile], str]:
    """Detection, and instance segmentation if there are masks."""
    given = _parts(args, data)
    masks = any(
        section == "annotations" and isinstance(record, dict) and record.get("segmentation")
        for section, record in json_records(data)
    )
    if given is None:
        how = _divide_coco(args, data, scratch)
        train: dict[str, Any] = {}
        val: dict[str, Any] = {}
    else:
        train, val, how = given
    if (classes := class_names(args.classes)) is not None:
        train, val = {**train, "classes": classes}, {**val, "classes": classes}
    tasks = COCO_TASKS if masks else COCO_TASKS[:1]
    return [SourceFile(task, train, val) for task in tasks], how


def _divide_coco(args: argparse.Namespace, data: Path, scratch: Path) -> str:
    """Two json files with the records as they are; ids and categories stay."""
    sections: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": []}
    for section, record in json_records(data):
        if section in sections and record is not EMPTY:
            sections[section].append(record)
    if not sections["images"]:
        raise CommandError(f"{data} lists no `images`: it is no COCO file")
    pictures = [image if isinstance(image, dict) else {} for image in sections["images"]]
    chosen = chosen_by_hash([str(image.get("file_name")) for image in pictures], _share(args))
    held = {str(image.get("id")) for image, out in zip(pictures, chosen, strict=True) if out}
    for split in ("train", "val"):
        wanted = split == "val"

        def belongs(record: Any, key: str, wanted: bool = wanted) -> bool:
            return isinstance(record, dict) and (str(record.get(key)) in held) == wanted

        content = {
            "images": [image for image in sections["images"] if belongs(image, "id")],
            "annotations": [a for a in sections["annotations"] if belongs(a, "image_id")],
            "categories": sections["categories"],
        }
        write_json(scratch / f"{split}.json", content)
    return _how(args, chosen)


# --- JSONL


def _jsonl(args: argparse.Namespace, images: Path, data: Path, scratch: Path) -> tuple[list[SourceFile], str]:
    """Grounding, referring segmentation or questions, by what all records have."""
    records = [record for _, record in read_lines(data)]
    if not records:
        raise CommandError(f"{data} has no records; one per line is expected (docs/your_data.md)")
    task = args.task or _jsonl_task(records)
    given = _parts(args, data)
    if given is None:
        chosen = chosen_by_hash([str(record.get("image")) for record in records], _share(args))
        names = {True: "val.jsonl", False: "train.jsonl"}
        for held, name in names.items():
            with writing(scratch / name) as file:
                for record, out in zip(records, chosen, strict=True):
                    if out == held:
                        file.write(json.dumps(record, ensure_ascii=False) + "\n")
        train, val = ({"annotations": f"${{..folder}}/{names[held]}"} for held in (False, True))
        how = _how(args, chosen)
    else:
        train, val, how = given
    if task == TALKS:
        train, val = {**train, "use": "conversations"}, {**val, "use": "conversations"}
    return [SourceFile(task, train, val)], how


def _jsonl_task(records: Sequence[dict[str, Any]]) -> str:
    """The task that all records can serve."""
    if all(record.get("masks") is not None or record.get("mask") for record in records):
        return MASK_TEXTS
    if all(record.get("bbox") is not None for record in records):
        return BOX_TEXTS
    if all(record.get("conversations") for record in records):
        return TALKS
    raise CommandError(
        "the records have neither all masks, nor all a bbox, nor all conversations; take another --task"
    )


# --- maps


def _maps(args: argparse.Namespace, images: Path, data: Path, scratch: Path) -> tuple[list[SourceFile], str]:
    """Semantic segmentation: lists of names by split and the classes in a folder of their own."""
    classes = class_names(args.classes) or _map_classes(data)
    write_text(scratch / "classes.txt", "".join(f"{name}\n" for name in classes))
    labels: dict[str, Any] = {"labels": str(data)}
    if args.zero_is_nothing:
        labels["reduce_zero_label"] = True
    if args.val_data:
        other = {**labels, "labels": str(args.val_data.absolute()), "split": None}
        if args.val_images:
            other["images"] = str(args.val_images.absolute())
        train = {**labels, "split": None}
        return [SourceFile(CLASS_MAPS, train, other)], "the two folders that were named"
    names = sorted(_stems(images, IMAGE_SUFFIXES) & _stems(data, frozenset(MAP_SUFFIXES)))
    if not names:
        raise CommandError(f"no picture in {images} has a map of the same name in {data}")
    if args.val == 0:
        chosen, how = [False] * len(names), "validation on the training pictures"
    else:
        chosen = chosen_by_hash(names, _share(args))
        how = _how(args, chosen)
    for split in ("train", "val"):
        kept = [n for n, out in zip(names, chosen, strict=True) if args.val == 0 or out == (split == "val")]
        write_text(scratch / f"maps_{split}.txt", "".join(f"{name}\n" for name in kept))
    return [SourceFile(CLASS_MAPS, labels, dict(labels))], how


def _stems(folder: Path, suffixes: frozenset[str]) -> set[str]:
    """Names below a folder without suffix."""
    found = (path.relative_to(folder).as_posix() for path in walk(folder) if path.suffix.lower() in suffixes)
    return {str(PurePosixPath(name).with_suffix("")) for name in found}


def _map_classes(data: Path) -> list[str]:
    """The names beside the maps, of `classes.txt`."""
    for folder in (data, data.parent):
        if (path := folder / "classes.txt").is_file():
            return class_names(str(path)) or []
    raise CommandError("--classes a,b,c or a file with one name per line: maps hold only numbers")
