"""Pascal Context: the 459-label `.mat` maps of the release -> PNG maps of the 59 usual classes."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import scipy.io

from ufo.data.datasets.base import require
from ufo.data.datasets.naming import read_split
from ufo.data.errors import DataError
from ufo.data.prepare import preparation
from ufo.data.prepare.runner import run_shards, save_label_map, writing
from ufo.data.problems import Problems

HOME = Path("VOCdevkit") / "VOC2010"


@preparation("pascal_context", out=str(HOME))
def maps(root: Path, out: Path, workers: int) -> None:
    """Pascal Context: trainval/*.mat -> SegmentationClassContext/*.png (0 other, 1 to 59) and split lists."""
    home = require(root / HOME, "root", folder=True)
    release = require(home / "pascal_context", "root", folder=True)
    numbers = class_numbers(
        require(release / "labels.txt", "root"), require(release / "59_labels.txt", "root")
    )
    folder = require(release / "trainval", "root", folder=True)
    labels = out / "SegmentationClassContext"
    names = sorted(path.stem for path in folder.glob("*.mat"))
    if not names:
        raise DataError(f"There is no *.mat in {folder}: unpack the release of Pascal Context there.")
    todo = [name for name in names if not (labels / f"{name}.png").is_file()]
    problems, scratch = Problems(str(folder)), out / ".preparing-context"
    work = partial(_convert, folder=folder, out=labels, numbers=numbers)
    title = "Pascal Context labels"
    list(run_shards(work, todo, scratch, fingerprint=todo, workers=workers, title=title, problems=problems))
    shutil.rmtree(scratch, ignore_errors=True)
    problems.close()
    _write_splits(home, out, names)


def class_numbers(all_labels: Path, chosen: Path) -> dict[int, int]:
    """Number among the 59 by number among the 459, matched by name; lines are "7: bicycle"."""
    old = {name: number for number, name in _numbered(all_labels)}
    missing = [name for _, name in _numbered(chosen) if name not in old]
    if missing:
        raise DataError(f"{all_labels} has no label {', '.join(missing)} of {chosen}.")
    return {old[name]: number for number, name in _numbered(chosen)}


def _numbered(path: Path) -> list[tuple[int, str]]:
    pairs = []
    for line in path.read_text(encoding="utf-8-sig").splitlines():
        number, colon, name = line.partition(":")
        if colon and number.strip().isdigit():
            pairs.append((int(number), "".join(name.split())))
    if not pairs:
        raise DataError(f'{path} has no line of the form "7: bicycle".')
    return pairs


def _convert(name: str, folder: Path, out: Path, numbers: dict[int, int]) -> None:
    path = folder / f"{name}.mat"
    try:
        raw = np.asarray(scipy.io.loadmat(path, variable_names=["LabelMap"])["LabelMap"])
    except Exception as error:  # scipy passes on whatever its parsers raise
        raise DataError(f"{path} is not a MATLAB file with a LabelMap ({error}).") from error
    if raw.ndim != 2 or raw.size == 0 or raw.min() < 0 or raw.max() > 65535:
        raise DataError(f"{path}: its LabelMap is not a map of label numbers.")
    table = np.zeros(65536, dtype=np.uint8)
    table[list(numbers)] = list(numbers.values())
    save_label_map(table[raw.astype(np.int64)], out / f"{name}.png")


def _write_splits(home: Path, out: Path, names: list[str]) -> None:
    """train.txt and val.txt: the annotated images of VOC's own splits."""
    known = set(names)
    for split in ("train", "val"):
        listed = read_split(require(home / "ImageSets" / "Main" / f"{split}.txt", "root"))
        with writing(out / "ImageSets" / "SegmentationContext" / f"{split}.txt") as file:
            file.writelines(f"{name}\n" for name in listed if name in known)
