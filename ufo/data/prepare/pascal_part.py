"""Pascal-Part: the `.mat` files of the release -> COCO files of 93 kinds of parts.

See docs/published_system.md#parts.
The release tells parts finely apart ("lfleg" is a left front leg); a part belongs to the first kind of its
object whose short name its own name contains, as in the file that the published model was trained with.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from pycocotools import mask as coco_mask

from ufo.data.datasets.base import require
from ufo.data.datasets.naming import read_split
from ufo.data.errors import DataError
from ufo.data.prepare import preparation
from ufo.data.prepare.runner import is_done, run_shards
from ufo.data.problems import Problems
from ufo.files import writing

PARTS = {
    "aeroplane": "body wing tail wheel",
    "bicycle": "wheel handlebar saddle",
    "bird": "beak head eye leg foot wing neck tail torso",
    "bottle": "body cap",
    "bus": "liplate headlight door mirror window wheel",
    "car": "liplate headlight door mirror window wheel",
    "cat": "head leg ear eye pa neck nose tail torso",
    "cow": "head leg ear eye neck horn muzzle tail torso",
    "dog": "head leg ear eye pa neck nose muzzle tail torso",
    "horse": "head leg ear eye neck muzzle tail torso",
    "motorbike": "wheel handlebar headlight saddle",
    "person": "hair head ear eye nose neck mouth arm hand leg foot torso",
    "pottedplant": "plant pot",
    "sheep": "head leg ear eye neck horn muzzle tail torso",
}
FULL = {"liplate": "license plate", "pa": "paw", "pottedplant": "potted plant"}
KINDS = [(thing, part) for thing, parts in PARTS.items() for part in parts.split()]
HOME = Path("VOCdevkit") / "VOC2010"


@preparation("pascal_part", out="pascal_part")
def parts(root: Path, out: Path, workers: int) -> None:
    """Pascal-Part: Annotations_Part/*.mat -> train.json and val.json with boxes and masks of parts."""
    home = require(root / "pascal_part", "root", folder=True)
    todo = [split for split in ("train", "val") if not is_done(out / f"{split}.json")]
    if len(todo) < 2 and not (home / "Annotations_Part").is_dir():
        return  # the COCO file was downloaded
    folder = require(home / "Annotations_Part", "root", folder=True)
    for split in todo:
        names = read_split(require(home / HOME / "ImageSets" / "Main" / f"{split}.txt", "root"))
        problems, scratch = Problems(f"{folder} ({split})"), out / f".preparing-{split}"
        found = run_shards(
            partial(_read, folder=folder),
            names,
            scratch,
            fingerprint=[str(folder), names],
            workers=workers,
            title=f"Pascal-Part {split}",
            problems=problems,
        )
        with writing(out / f"{split}.json") as file:
            json.dump(_content(found), file)
        shutil.rmtree(scratch, ignore_errors=True)
        problems.close()


def _content(images: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """A COCO file of images with parts; those without any are not in it."""
    categories = [
        {"id": k, "name": f"{FULL.get(thing, thing)}:{FULL.get(part, part)}"}
        for k, (thing, part) in enumerate(KINDS, start=1)
    ]
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": categories}
    for image in images:
        number = int(image["name"].replace("_", ""))
        height, width = image["size"]
        record = {"id": number, "file_name": f"{image['name']}.jpg", "height": height, "width": width}
        content["images"].append(record)
        for part in image["parts"]:
            place = {"id": len(content["annotations"]), "image_id": number, "iscrowd": 0}
            content["annotations"].append({**place, **part})
    return content


def _read(name: str, folder: Path) -> dict[str, Any] | None:
    """Size and parts of one image; None if it has no part of any kind."""
    path = folder / f"{name}.mat"
    if not path.is_file():
        raise DataError(f"{path}: there is no such file.")
    try:
        anno = scipy.io.loadmat(path, squeeze_me=True, struct_as_record=False)["anno"]
        found = [
            (str(getattr(thing, "class")), str(part.part_name), np.asarray(part.mask) > 0)
            for thing in np.atleast_1d(anno.objects)
            for part in np.atleast_1d(thing.parts)
        ]
    except Exception as error:  # scipy passes on whatever its parsers raise
        raise DataError(f"{path} is not an annotation of Pascal-Part ({error}).") from error
    chosen = [(kind_of(thing, part), mask) for thing, part, mask in found]
    records = [_record(kind, mask) for kind, mask in chosen if kind and mask.any()]
    return {"name": name, "size": list(found[0][2].shape), "parts": records} if records else None


def kind_of(thing: str, part: str) -> int | None:
    """Number from 1 of the kind that a part of the release belongs to, None if to none."""
    fits = (k for k, (of, short) in enumerate(KINDS, start=1) if of == thing and short in part)
    return next(fits, None)


def _record(kind: int, mask: np.ndarray) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    segmentation = {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")}
    box, area = coco_mask.toBbox(rle).tolist(), int(coco_mask.area(rle))
    return {"category_id": kind, "bbox": box, "area": area, "segmentation": segmentation}
