"""nuImages: tables of the release -> COCO files with boxes and RLE masks, and label maps.

See docs/published_system.md#nuimages.
Masks in the tables are RLE in base64. Label maps count surfaces first, then objects in the order of their
tokens, each over what was there; 0 is unlabelled.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from ufo.data.datasets.base import require, stamp
from ufo.data.datasets.segmentations import run_lengths
from ufo.data.errors import DataError
from ufo.data.json_stream import EMPTY, json_records
from ufo.data.prepare import preparation
from ufo.data.prepare.runner import is_done, run_shards, save_label_map
from ufo.data.problems import Problems
from ufo.files import writing

SPLITS = {"train": "training", "val": "validation"}
CLASSES = {  # categories of the tables by class; the others are no objects of the detection task
    "car": ("vehicle.car",),
    "truck": ("vehicle.truck",),
    "trailer": ("vehicle.trailer",),
    "bus": ("vehicle.bus.bendy", "vehicle.bus.rigid"),
    "construction_vehicle": ("vehicle.construction",),
    "bicycle": ("vehicle.bicycle",),
    "motorcycle": ("vehicle.motorcycle",),
    "pedestrian": (
        "human.pedestrian.adult",
        "human.pedestrian.child",
        "human.pedestrian.construction_worker",
        "human.pedestrian.police_officer",
    ),
    "traffic_cone": ("movable_object.trafficcone",),
    "barrier": ("movable_object.barrier",),
}
# numbers that do not follow from the alphabetical order of the categories
SURFACES = {"flat.driveable_surface": 24, "vehicle.ego": 31}


@preparation("nuimages", out="nuimages/annotations")
def detection(root: Path, out: Path, workers: int) -> None:
    """nuImages: tables -> nuimages_v1.0-{train,val}.json with boxes and masks of ten classes."""
    for split in _splits(root):
        folder, result = root / "nuimages" / f"v1.0-{split}", out / f"nuimages_v1.0-{split}.json"
        if is_done(result, folder / "object_ann.json", folder / "sample_data.json"):
            continue
        tables = Tables(folder)
        label_of = {name: k for k, names in enumerate(CLASSES.values()) for name in names}
        categories = [{"id": k, "name": name} for k, name in enumerate(CLASSES)]
        objects = tables.by_image("object_ann")
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, record in enumerate(tables.images()):
            images.append(_image(number, record))
            for row in objects.get(record["token"], ()):
                label = label_of.get(tables.category(row))
                if label is not None:
                    annotations.append(_annotation(len(annotations), number, label, row))
        tables.problems.close()
        with writing(result) as file:
            json.dump({"images": images, "annotations": annotations, "categories": categories}, file)


@preparation("nuimages_seg", out="nuimages_seg")
def segmentation(root: Path, out: Path, workers: int) -> None:
    """nuImages: tables -> label maps of 31 classes, with links to the images beside them."""
    for split in _splits(root):
        folder = SPLITS[split]
        tables = Tables(root / "nuimages" / f"v1.0-{split}")
        numbers = tables.numbers()
        surfaces, objects = tables.by_image("surface_ann"), tables.by_image("object_ann")
        jobs = []
        for record in tables.images():
            stem = Path(record["filename"]).stem
            link(root / "nuimages" / record["filename"], out / "images" / folder / f"{stem}.jpg")
            target = out / "annotations" / folder / f"{stem}.png"
            if target.is_file():
                continue
            rows = surfaces.get(record["token"], []) + objects.get(record["token"], [])
            layers = [(numbers[tables.category(row)], row["mask"]) for row in rows if row.get("mask")]
            jobs.append((str(target), [record["height"], record["width"]], layers))
        scratch = out / f".preparing-{split}"
        job = [stamp(tables.folder / "object_ann.json"), [name for name, *_ in jobs]]
        title = f"nuImages {split}: label maps"
        drawn = run_shards(
            _draw, jobs, scratch, fingerprint=job, workers=workers, title=title, problems=tables.problems
        )
        list(drawn)
        shutil.rmtree(scratch, ignore_errors=True)
        tables.problems.close()


class Tables:
    """The tables of one split that the conversions need, each a JSON list of records."""

    def __init__(self, folder: Path) -> None:
        self.folder = require(folder, "root", folder=True)
        self.problems = Problems(str(folder))
        self._categories = {row["token"]: row["name"] for row in self.read("category", "token", "name")}

    def read(self, name: str, *keys: str) -> Iterator[dict[str, Any]]:
        """Records of a table that must have `keys`."""
        path = require(self.folder / f"{name}.json", "root")
        for _, row in json_records(path):
            if row is EMPTY:
                return
            if not isinstance(row, dict) or any(key not in row for key in keys):
                raise DataError(f"{path} is not a table of nuImages: a record lacks {', '.join(keys)}.")
            yield row

    def images(self) -> list[dict[str, Any]]:
        """The annotated images (key frames), sorted by file."""
        keys = "token", "filename", "is_key_frame", "height", "width"
        rows = (row for row in self.read("sample_data", *keys) if row["is_key_frame"])
        kept = (row for row in rows if str(row["filename"]).lower().endswith((".jpg", ".jpeg", ".png")))
        return sorted(kept, key=lambda row: row["filename"])

    def by_image(self, name: str) -> dict[str, list[dict[str, Any]]]:
        """Annotations of a table by image, in the order of their tokens."""
        found: dict[str, list[dict[str, Any]]] = {}
        keys = "token", "sample_data_token", "category_token"
        for row in sorted(self.read(name, *keys), key=lambda row: row["token"]):
            found.setdefault(row["sample_data_token"], []).append(row)
        return found

    def category(self, row: dict[str, Any]) -> str:
        """Name of an annotation's category. Raises DataError if the table has none."""
        try:
            return self._categories[row["category_token"]]
        except KeyError:
            raise DataError(
                f"{self.folder}: {row['token']} has an unknown category; fetch the tables again."
            ) from None

    def numbers(self) -> dict[str, int]:
        """Number in the label maps by category: alphabetical from 1, except for two surfaces."""
        names = sorted(name for name in self._categories.values() if name not in SURFACES)
        if len(names) >= min(SURFACES.values()):
            raise DataError(f"{self.folder / 'category.json'} has {len(names)} categories, at most 23 fit.")
        return {**{name: k for k, name in enumerate(names, start=1)}, **SURFACES}


def _splits(root: Path) -> list[str]:
    home = require(root / "nuimages", "root", folder=True)
    found = [split for split in SPLITS if (home / f"v1.0-{split}").is_dir()]
    if not found:
        raise DataError(f"{home} has neither v1.0-train nor v1.0-val: unpack the tables of nuImages there.")
    return found


def _image(number: int, record: dict[str, Any]) -> dict[str, Any]:
    sides = {side: int(record[side]) for side in ("height", "width")}
    return {"id": number, "file_name": record["filename"], "token": record["token"], **sides}


def _annotation(number: int, image: int, label: int, row: dict[str, Any]) -> dict[str, Any]:
    x1, y1, x2, y2 = row["bbox"]
    record: dict[str, Any] = {"id": number, "image_id": image, "category_id": label, "iscrowd": 0}
    record |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
    if row.get("mask"):
        record["segmentation"] = {"size": row["mask"]["size"], "counts": _counts(row["mask"]).decode("ascii")}
    return record


def _counts(mask: dict[str, Any]) -> bytes:
    """Compressed RLE counts of a mask of the tables. Raises DataError if they are none."""
    try:
        counts = base64.b64decode(mask["counts"], validate=True)
        if sum(run_lengths(counts)) == mask["size"][0] * mask["size"][1]:
            return counts
    except (KeyError, TypeError, binascii.Error, ValueError):
        pass
    raise DataError("A mask of the tables is not an RLE in base64; fetch the tables again.")


def _draw(job: tuple[str, list[int], list[tuple[int, dict[str, Any]]]]) -> None:
    path, size, layers = job
    labels = np.zeros(size, dtype=np.uint8)
    for number, mask in layers:
        if list(mask["size"]) != list(size):
            raise DataError(f"{path}: a mask of {mask['size']} in an image of {size}.")
        labels[coco_mask.decode({"size": list(size), "counts": _counts(mask)}).astype(bool)] = number
    save_label_map(labels, Path(path))


def link(source: Path, target: Path) -> None:
    """A relative link to a file, or a copy where the file system has no links; missing files get none."""
    if target.exists() or not source.is_file():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)  # a link to nothing
    try:
        target.symlink_to(os.path.relpath(source, target.parent.resolve()))
    except OSError:
        shutil.copyfile(source, target)
