"""Label maps with other numbers: COCO-Stuff and Cityscapes as downloaded -> class index, 255 = ignored.

The converted maps stand beside the original ones under another suffix.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ufo.data.datasets.base import require
from ufo.data.errors import DataError
from ufo.data.pictures import read_label_map
from ufo.data.prepare import preparation
from ufo.data.prepare.runner import run_shards, save_label_map
from ufo.data.problems import Problems
from ufo.types import IGNORE

# ids of 1 to 182 that COCO-Stuff does not use; its files hold id - 1
COCO_STUFF_GAPS = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91})
COCO_STUFF = tuple(id - 1 for id in range(1, 183) if id not in COCO_STUFF_GAPS)
# labelIds of Cityscapes' 19 evaluated classes, in the order of their trainIds
CITYSCAPES = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


@preparation("coco_stuff", out="coco_stuff164k/annotations")
def coco_stuff(root: Path, out: Path, workers: int) -> None:
    """COCO-Stuff 164k: label maps with 182 ids -> <id>_labelTrainIds.png with 171 classes."""
    folder = require(root / "coco_stuff164k" / "annotations", "root", folder=True)
    convert(folder, out, COCO_STUFF, ".png", "_labelTrainIds.png", workers, "COCO-Stuff labels")


@preparation("cityscapes", out="cityscapes/gtFine")
def cityscapes(root: Path, out: Path, workers: int) -> None:
    """Cityscapes: *_gtFine_labelIds.png -> *_gtFine_labelTrainIds.png with 19 classes."""
    folder = require(root / "cityscapes" / "gtFine", "root", folder=True)
    old, new = "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"
    convert(folder, out, CITYSCAPES, old, new, workers, "Cityscapes labels")


def convert(
    folder: Path, out: Path, numbers: Sequence[int], old: str, new: str, workers: int, title: str
) -> None:
    """Write every map below `folder` anew: `numbers[k]` becomes `k`, all others 255.

    `old` and `new` are the ends of the files' names. Raises DataError if there is none to convert.
    """
    found = (path.relative_to(folder).as_posix() for path in folder.rglob(f"*{old}"))
    names = sorted(name for name in found if not name.endswith(new))
    if not names:
        raise DataError(f"There is no *{old} below {folder}: unpack the label maps there.")
    todo = [name for name in names if not (out / renamed(name, old, new)).is_file()]
    problems, scratch = Problems(str(folder)), out / ".preparing"
    work = partial(_convert, folder=folder, out=out, numbers=tuple(numbers), old=old, new=new)
    job = {"folder": str(folder), "todo": todo}
    list(run_shards(work, todo, scratch, fingerprint=job, workers=workers, title=title, problems=problems))
    shutil.rmtree(scratch, ignore_errors=True)
    problems.close()


def renamed(name: str, old: str, new: str) -> str:
    """`name` with `new` for its end `old`."""
    return name[: len(name) - len(old)] + new


def _convert(name: str, folder: Path, out: Path, numbers: tuple[int, ...], old: str, new: str) -> None:
    labels = read_label_map(folder / name).numpy()
    table = np.full(256, IGNORE, dtype=np.uint8)
    table[list(numbers)] = np.arange(len(numbers), dtype=np.uint8)
    if labels.min() < 0 or labels.max() > 255:
        raise DataError(f"{folder / name}: label numbers lie between 0 and 255, not {labels.max()}.")
    save_label_map(table[labels], out / renamed(name, old, new))
