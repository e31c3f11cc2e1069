"""Labels written as what the loaders read: COCO json, class maps, captions, JSONL of expressions.

The pictures stay where they are: names in the files start from the folder that holds all of them. A folder
appears whole or not at all.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ufo.data.errors import DataError
from ufo.data.labels.record import Labels, Picture, Thing
from ufo.data.labels.shapes import area, polygons_rle, rle_area
from ufo.data.labels.sources import BOX_TEXTS, BOXES, CLASS_MAPS, MASK_TEXTS, MASKS, SourceFile
from ufo.data.prepare.runner import save_label_map
from ufo.files import write_json, write_text, writing

MAPS, CLASSES = "maps", "classes.txt"
ONE_SIDED = "no source of"


@dataclass
class Written:
    """What was written, in numbers."""

    root: Path  # what the names of the pictures start from
    sources: list[SourceFile] = field(default_factory=list)  # the first one is the main one
    files: list[str] = field(default_factory=list)


def free(paths: Sequence[Path], force: bool) -> list[Path]:
    """The paths of files to write. DataError if one is there, unless `force`."""
    there = [path for path in paths if path.exists()]
    if there and not force:
        raise DataError(
            f"{there[0]} is there already ({len(there)} of {len(paths)} files); take another --out, or "
            "--force to replace it"
        )
    return list(paths)


def picture_names(pictures: Sequence[Picture], scratch: Path, out: Path) -> tuple[Path, list[str]]:
    """The folder of all pictures, and their names below it; those in `scratch` will be in `out`."""
    paths = []
    for picture in pictures:
        path = Path(os.path.abspath(picture.path))
        kept = path.is_relative_to(scratch)
        paths.append(out / path.relative_to(scratch) if kept else path)
    root = Path(os.path.commonpath([path.parent for path in paths]))
    return root, [path.relative_to(root).as_posix() for path in paths]


def write(
    labels: Labels, splits: dict[str, list[Picture]], names: dict[int, str], root: Path, scratch: Path
) -> Written:
    """Write all that the labels hold to `scratch`.

    Args:
        labels: tidy.
        splits: pictures by split; `train` and `val` are there.
        names: the pictures' names below `root`, by the pictures' identity.
        root: the folder of the images.
        scratch: folder to write to.

    Raises DataError if a split holds nothing.
    """
    written = Written(root)

    def has(what: str, known: Callable[[Picture], Any]) -> bool:
        """Whether a task has something to train and something to validate on; said if only one of them."""
        there = [split for split in ("train", "val") if any(known(picture) for picture in splits[split])]
        if len(there) == 1:
            labels.notes.append(
                f"{ONE_SIDED} {what}: only {there[0]} has any; --val 0 validates on the training pictures"
            )
        return len(there) == 2

    if has("boxes", lambda picture: picture.things):
        masks = has("masks", lambda picture: any(t.polygons or t.rle for t in picture.things))
        for split, part in splits.items():
            _write_coco(scratch / f"{split}.json", labels.classes, part, names)
            written.files.append(f"{split}.json")
        written.sources.append(SourceFile(BOXES))
        if masks:
            written.sources.append(SourceFile(MASKS))
    if has("class maps", lambda picture: picture.class_map):
        _write_maps(labels, splits, names, scratch, written)
    if has("captions", lambda picture: picture.captions):
        _write_captions(splits, names, scratch, written)
    if has("expressions", lambda picture: any(t.text for t in picture.things)):
        _write_expressions(splits, names, scratch, written)
    if not written.sources:
        said = "; ".join(note for note in labels.notes if note.startswith(ONE_SIDED))
        raise DataError(f"Nothing of {labels.problems.source} is in both splits: {said}.")
    return written


def _write_coco(
    path: Path, classes: Sequence[str], pictures: Sequence[Picture], names: dict[int, str]
) -> None:
    """A COCO json; categories are numbered from 1 in the order of the classes."""
    numbers = {name: k for k, name in enumerate(classes, start=1)}
    content: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": k, "name": name} for name, k in numbers.items()]
    for picture in pictures:
        height, width = picture.size
        key = len(content["images"]) + 1
        content["images"].append(
            {"id": key, "file_name": names[id(picture)], "height": height, "width": width}
        )
        for thing in picture.things:
            record = _annotation(thing, picture.size)
            head = {
                "id": len(content["annotations"]) + 1,
                "image_id": key,
                "category_id": numbers[thing.label],
            }
            content["annotations"].append({**head, **record})
    write_json(path, content)


def _annotation(thing: Thing, size: tuple[int, int]) -> dict[str, Any]:
    """The parts of a COCO annotation that say where an object is."""
    x1, y1, x2, y2 = thing.box or (0.0, 0.0, 0.0, 0.0)
    record: dict[str, Any] = {"bbox": [round(v, 3) for v in (x1, y1, x2 - x1, y2 - y1)]}
    if shape := segmentation(thing, size):
        record["segmentation"] = shape
    if isinstance(shape, dict):
        covered = rle_area(shape)
    else:
        covered = sum(map(area, thing.polygons)) if thing.polygons else (x2 - x1) * (y2 - y1)
    return {**record, "area": round(covered, 3), "iscrowd": int(thing.crowd)}


def segmentation(thing: Thing, size: tuple[int, int]) -> Any:
    """The COCO segmentation of an object: an RLE, a list of polygons, or None."""
    if thing.rle is not None and thing.polygons:
        from pycocotools import mask as coco_mask

        whole = coco_mask.merge([thing.rle, polygons_rle(thing.polygons, size)])
        return {"size": list(size), "counts": whole["counts"].decode("ascii")}
    if thing.rle is not None:
        return thing.rle
    return [[round(v, 3) for v in polygon] for polygon in thing.polygons] or None


def _write_maps(
    labels: Labels, splits: dict[str, list[Picture]], names: dict[int, str], scratch: Path, written: Written
) -> None:
    """A PNG for every class map, lists of the pictures by split, and the names of the classes."""
    for split, part in splits.items():
        lines = []
        for picture in part:
            if picture.class_map is None:
                continue
            name = re.sub(r"\.\w+$", "", names[id(picture)])
            try:
                numbers = picture.class_map()
            except DataError as error:
                labels.problems.report("map that cannot be read", str(error))
                picture.class_map = None
                continue
            path = scratch / MAPS / f"{name}.png"
            if not path.is_file():  # a picture may be in two splits, if val is train
                save_label_map(numbers, path)
            lines.append(name)
        write_text(scratch / f"{MAPS}_{split}.txt", "".join(f"{line}\n" for line in lines))
        written.files.append(f"{MAPS}_{split}.txt")
    write_text(scratch / CLASSES, "".join(f"{name}\n" for name in labels.map_classes))
    written.files += [MAPS + "/", CLASSES]
    written.sources.append(SourceFile(CLASS_MAPS))


def _write_captions(
    splits: dict[str, list[Picture]], names: dict[int, str], scratch: Path, written: Written
) -> None:
    for split, part in splits.items():
        records = [
            {"image": names[id(picture)], "image_id": k, "caption": picture.captions}
            for k, picture in enumerate(part, start=1)
            if picture.captions
        ]
        write_json(scratch / f"captions_{split}.json", records)
        written.files.append(f"captions_{split}.json")
    written.sources.append(SourceFile("caption"))


def _write_expressions(
    splits: dict[str, list[Picture]], names: dict[int, str], scratch: Path, written: Written
) -> None:
    """A JSONL of the objects that a text refers to; with masks if all of them have one."""
    every = [thing for part in splits.values() for picture in part for thing in picture.things if thing.text]
    masked = all(thing.polygons or thing.rle for thing in every)
    for split, part in splits.items():
        with writing(scratch / f"expressions_{split}.jsonl") as file:
            for picture in part:
                height, width = picture.size
                for thing in picture.things:
                    if not thing.text:
                        continue
                    record = {
                        "image": names[id(picture)],
                        "text": thing.text,
                        "height": height,
                        "width": width,
                    }
                    if masked:
                        record["masks"] = [segmentation(thing, picture.size)]
                    else:
                        record["bbox"] = _annotation(thing, picture.size)["bbox"]
                    file.write(json.dumps(record, ensure_ascii=False) + "\n")
        written.files.append(f"expressions_{split}.jsonl")
    written.sources.append(SourceFile(MASK_TEXTS if masked else BOX_TEXTS))
