"""OpenImages: image sizes, and masks as RLE in one csv per split (docs/published_system.md#openimages)."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from pycocotools import mask as coco_mask

from ufo.data.datasets.base import require, stamp
from ufo.data.datasets.openimages import (
    MASK_COLUMNS,
    SIZE_COLUMNS,
    UNKNOWN_SIZE,
    csv_rows,
    read_sizes,
)
from ufo.data.errors import DataError
from ufo.data.pictures import image_size, read_label_map
from ufo.data.prepare import preparation
from ufo.data.prepare.runner import is_done, run_shards
from ufo.data.problems import Problems
from ufo.files import writing

SPLITS = ("train", "validation", "test")
BOXES = {
    "train": "oidv6-train-annotations-bbox.csv",
    "validation": "validation-annotations-bbox.csv",
    "test": "test-annotations-bbox.csv",
}
MASKS = "{split}-annotations-object-segmentation.csv"
OUT_SIZES = "{split}-image-sizes.csv"
OUT_MASKS = "{split}-masks-rle.csv"


@preparation("openimages", out="OpenImages/annotations")
def sizes(root: Path, out: Path, workers: int) -> None:
    """OpenImages: heights and widths of all annotated images -> <split>-image-sizes.csv."""
    home = require(root / "OpenImages", "root", folder=True)
    done = 0
    for split, boxes in BOXES.items():
        files = [home / "annotations" / name for name in (boxes, MASKS.format(split=split))]
        files = [path for path in files if path.is_file()]
        done += bool(files)
        if is_done(out / OUT_SIZES.format(split=split), *files):
            continue
        names = dict.fromkeys(name for path in files for _, (name,) in csv_rows(path, ("ImageID",)))
        if names:
            _write_sizes(home / "OpenImages" / split, split, list(names), out, workers)
    if not done:
        raise DataError(f"{home / 'annotations'} has no annotations, such as {BOXES['train']}.")


def _write_sizes(images: Path, split: str, names: list[str], out: Path, workers: int) -> None:
    problems, scratch = Problems(f"OpenImages {split}"), out / f".preparing-sizes-{split}"
    found = run_shards(
        partial(_size, images=require(images, "root", folder=True)),
        names,
        scratch,
        fingerprint=[str(images), len(names), names[0], names[-1]],
        workers=workers,
        title=f"OpenImages {split}: sizes",
        problems=problems,
        shard=5000,
    )
    _write(out / OUT_SIZES.format(split=split), SIZE_COLUMNS, found)
    shutil.rmtree(scratch, ignore_errors=True)
    problems.close()


def _size(name: str, images: Path) -> list[Any]:
    return [name, *image_size(images / f"{name}.jpg")]


@preparation("openimages_masks", out="OpenImages/annotations")
def masks(root: Path, out: Path, workers: int) -> None:
    """OpenImages: PNG masks -> <split>-masks-rle.csv, at the images' sizes, sorted by image."""
    home = require(root / "OpenImages", "root", folder=True)
    done = 0
    for split in SPLITS:
        path = home / "annotations" / MASKS.format(split=split)
        done += path.is_file()
        if path.is_file() and not is_done(out / OUT_MASKS.format(split=split), path):
            _write_masks(home, path, split, out, workers)
    if not done:
        raise DataError(f"{home / 'annotations'} has no {MASKS.format(split='train')} or another split's.")


def _write_masks(home: Path, path: Path, split: str, out: Path, workers: int) -> None:
    columns = ("MaskPath", *(name for name in MASK_COLUMNS if name != "rle"))
    # a text for each row: a tuple of texts would take five times the memory
    rows = sorted("\t".join(row) for _, row in csv_rows(path, ("ImageID", *columns)))
    problems, scratch = Problems(str(path)), out / f".preparing-masks-{split}"
    known = out / OUT_SIZES.format(split=split)
    sizes = read_sizes(known) if known.is_file() else {}
    # the size travels with its row: a worker needs no table of all images
    items = [(row, sizes.get(row.partition("\t")[0])) for row in rows]
    work = partial(
        _mask, masks=home / "segmentation" / split, images=home / "OpenImages" / split, source=str(path)
    )
    masks = run_shards(
        work,
        items,
        scratch,
        fingerprint=[stamp(path), str(home), bool(sizes)],
        workers=workers,
        title=f"OpenImages {split}: masks",
        problems=problems,
    )
    _write(out / OUT_MASKS.format(split=split), (*columns, "rle"), _noted(masks, problems))
    shutil.rmtree(scratch, ignore_errors=True)
    problems.close()


def _mask(item: tuple[str, tuple[int, int] | None], masks: Path, images: Path, source: str) -> list[Any]:
    """[row with counts, problem] of one mask; the counts are for the whole image, whatever the PNG's size is.

    A mask that can't be read has no counts: its object stays, for evaluation.
    """
    line, size = item
    image, *row = line.split("\t")
    path = masks / row[0]
    if not path.resolve().is_relative_to(masks.resolve()):
        return [[*row, ""], f"{source}: the mask {row[0]} lies outside {masks}"]
    try:
        height, width = size or image_size(images / f"{image}.jpg")
    except DataError:  # as OpenImagesDataset takes it
        height, width = UNKNOWN_SIZE
    try:
        mask = read_label_map(path).numpy() > 0
    except DataError as error:
        return [[*row, ""], str(error)]
    if mask.shape != (height, width):
        # bilinear, so that a border falls where it would be between the pixels of the smaller mask
        grey = PIL.Image.fromarray(mask.astype(np.uint8) * 255)
        mask = np.asarray(grey.resize((width, height), PIL.Image.Resampling.BILINEAR)) >= 128
    counts = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    return [[*row, counts.decode("ascii")], ""]


def _noted(results: Iterable[list[Any]], problems: Problems) -> Iterator[list[str]]:
    for row, problem in results:
        if problem:
            problems.report("mask that can't be read", problem)
        yield row


def _write(path: Path, columns: Iterable[str], rows: Iterable[list[Any]]) -> None:
    with writing(path) as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
