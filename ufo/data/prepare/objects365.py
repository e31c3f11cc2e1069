"""Objects365 v2: images that were unpacked to other folders become `patchN/name.jpg`.

See docs/published_system.md#objects365.
"""

from __future__ import annotations

import os
from pathlib import Path

from ufo.data.datasets.base import require
from ufo.data.datasets.coco_file import FileName, check_record
from ufo.data.errors import DataError
from ufo.data.json_stream import EMPTY, json_records
from ufo.data.prepare import preparation
from ufo.data.prepare.nuimages import link
from ufo.data.problems import Problems
from ufo.files import writing

SPLITS = ("train", "val")
NAME = FileName(parts=2)


@preparation("objects365", out="Objects365/Obj365_v2")
def paths(root: Path, out: Path, workers: int) -> None:
    """Objects365 v2: links {train,val}/patchN/*.jpg to wherever the images are; lists the missing ones."""
    home = require(root / "Objects365" / "Obj365_v2", "root", folder=True)
    done = 0
    for split in SPLITS:
        annotations = home / "annotations" / f"zhiyuan_objv2_{split}.json"
        if annotations.is_file():
            _link_split(home, annotations, out / split, out / "annotations" / f"missing_{split}.txt")
            done += 1
    if not done:
        raise DataError(f"{home / 'annotations'} has no zhiyuan_objv2_train.json or zhiyuan_objv2_val.json.")


def _link_split(home: Path, annotations: Path, target: Path, missing: Path) -> None:
    found = _files(home, skip={"annotations"})
    problems, lost, total = Problems(str(annotations)), [], 0
    for section, record in json_records(annotations):
        if section != "images" or record is EMPTY:
            continue
        check_record(section, record, annotations, NAME.key)
        total += 1
        name = NAME(record)
        path = target / name
        if path.is_file():
            continue
        source = found.get(path.name)
        if source is None:
            problems.report("image that is in no folder", name)
            lost.append(name)
        else:
            link(source, path)
    if total == len(lost):
        raise DataError(f"None of the {total} images of {annotations} is below {home}: unpack them there.")
    with writing(missing) as file:
        file.writelines(f"{name}\n" for name in lost)
    problems.close()


def _files(folder: Path, skip: set[str]) -> dict[str, Path]:
    """Path by file name of all images below a folder; names are unique in this data set."""
    found: dict[str, Path] = {}
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in skip)
        here = Path(place)
        found.update((name, here / name) for name in names if name.lower().endswith(".jpg"))
    return found
