"""The ids of a user's own COCO file, in place of those that results have without it (`ufo predict --ids`).

Images are known by their file names, classes by their names. So pycocotools gives the right number on the
user's file, whatever ids that has: from 0, with gaps, as texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ufo.cli import CommandError
from ufo.data.errors import DataError
from ufo.data.json_stream import EMPTY, json_records
from ufo.ops.names import find_class

Id = int | str


@dataclass
class Ids:
    """What a COCO file calls its images and categories."""

    path: Path
    images: dict[str, Id]  # by file name without its folders
    categories: dict[str, Id]  # by name
    lost: Counter[str] = field(default_factory=Counter)  # objects of classes that the file has not

    def check(self, images: Iterable[Path]) -> None:
        """CommandError if one of the images is not in the file."""
        missing = [image for image in images if image.name not in self.images]
        if missing:
            raise CommandError(
                f"--ids {self.path} has no image {missing[0].name} ({len(missing)} of the images are not in "
                "it); leave them out, or give the file that lists them"
            )

    def of(self, records: Sequence[dict[str, Any]], image: Path) -> list[dict[str, Any]]:
        """Records of one image with the file's ids; those of other classes are counted in `lost`."""
        found = []
        for record in records:
            named = {**record, "image_id": self.images[image.name]}
            if "category" in record:
                label, _ = find_class(record["category"], tuple(self.categories))
                if label < 0:
                    self.lost[record["category"]] += 1
                    continue
                named["category_id"] = list(self.categories.values())[label]
            found.append(named)
        return found

    def remark(self) -> str:
        """What was left out, in one line; empty if nothing was."""
        if not self.lost:
            return ""
        names = ", ".join(f"{number} {name}" for name, number in self.lost.most_common(5))
        return f"left out, as {self.path} has no such category: {names}"


def id_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(section, record) of the images and categories of an `--ids` file, the records checked.

    Raises DataError for an entry that is null or has no usable id or name, which would name nothing.
    """
    from ufo.data.datasets.coco_file import key_of, no_object  # which imports torch

    for section, record in json_records(path):
        if section not in ("images", "categories") or record is EMPTY:
            continue
        if not isinstance(record, dict):
            raise no_object(section, path, record)
        name = "file_name" if section == "images" else "name"
        for key in ("id", name):
            # images may be called otherwise, as those of LVIS are; their ids then have to do
            if key_of(record, key) is None and (key in record or key != "file_name"):
                raise DataError(
                    f"{path}: an entry of `{section}` has no usable `{key}`; correct it, or leave it out."
                )
        yield section, record


def read_ids(path: Path) -> Ids:
    """The ids of a COCO file. Raises CommandError if names do not say which image is meant, DataError."""
    images: dict[str, Id] = {}
    categories: dict[str, Id] = {}
    if not path.is_file():
        raise CommandError(f"--ids {path}: there is no such file")
    for section, record in id_records(path):
        if section == "images" and "file_name" in record:
            name = PurePosixPath(str(record["file_name"]).replace("\\", "/")).name
            if images.setdefault(name, record["id"]) != record["id"]:
                raise CommandError(f"--ids {path}: two images are called {name}; their names must differ")
        elif section == "categories":
            categories.setdefault(str(record["name"]), record["id"])
    if not images:
        raise CommandError(f"--ids {path} lists no images; give a COCO file with `images` and `categories`")
    return Ids(path, images, categories)
