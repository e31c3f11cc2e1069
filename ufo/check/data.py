"""What can be known about a data set from its options alone: the files it needs, the names of its classes.

Nothing is generated, indexed or decoded for it. Of a COCO file the list of categories is read, wherever in
the file it stands; class files are read whole. What only reading the data tells is None.
"""

from __future__ import annotations

import inspect
import json
import mmap
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from ufo.data.datasets.base import require
from ufo.data.datasets.coco import CocoDataset
from ufo.data.datasets.naming import part_wordings, read_names, renamed
from ufo.data.datasets.openimages import OpenImagesDataset, read_labels
from ufo.data.datasets.semantic import SemanticDataset
from ufo.data.datasets.voc import VocDataset
from ufo.data.digits import CLASSES, SEMANTIC_CLASSES

GENERATED = {"instances.json": CLASSES, "semantic_classes.txt": SEMANTIC_CLASSES}
"""Class names by the file that `ufo.data.digits.generate` will write them to."""
_CATEGORIES = re.compile(rb'(?<!\\)"categories"\s*:\s*(?=\[)')
MAX_LIST = 64 << 20
"""A list of categories of more bytes is left to the reader of the whole file."""
FOLDERS = frozenset({"images", "labels", "root", "folder", "objects"})

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Planned:
    """A split that a run would read."""

    source: str  # its name
    task: str
    split: str
    options: Options


def planned(cfg: DictConfig, training: bool) -> Iterator[Planned]:
    """Every split that training or evaluation reads, in the order in which they are read."""
    sources: list[Any] = [OmegaConf.to_container(s, resolve=True) for s in cfg.sources.values() if s]
    for split in ("train", "val") if training else ("val",):
        for source in sources:
            options = source["dataset"].get(split)
            if options and (split == "val" or source.get("weight", 1.0) > 0):
                yield Planned(source["name"], source["task"], split, options)


def check_files(cfg: DictConfig, training: bool) -> None:
    """Raises DataError for the first file or folder that a run would read and that is not there.

    What a generator writes is left to it, also where its folder exists: scenes of an earlier version of this
    project get the files that they lack before they are read.
    """
    generated = tuple(Path(p["out"]) for p in cfg.prepare.values() if p and p.get("out"))
    for data in planned(cfg, training):
        check_paths(data.options, generated)


def parts_of(options: Options) -> Iterator[Options]:
    """The data sets that one is made of: itself, or those that it joins."""
    if "parts" not in options:
        yield options
        return
    for part in options["parts"].values():
        if part:
            yield from parts_of(part[options["split"]])


def check_paths(options: Options, generated: tuple[Path, ...] = ()) -> None:
    """Raises DataError for the first file or folder that is missing, but for those below `generated`."""
    for part in parts_of(options):
        for argument, path in paths_of(part):
            if not any(path.is_relative_to(folder) for folder in generated):
                require(path, argument, folder=argument in FOLDERS)


def paths_of(options: Options) -> Iterator[tuple[str, Path]]:
    """The arguments of a reader that are files and folders: its signature says `Path`."""
    for name, parameter in inspect.signature(get_object(options["_target_"])).parameters.items():
        value = options.get(name)
        if isinstance(value, str) and "Path" in str(parameter.annotation):
            yield name, Path(value)
    if isinstance(options.get("root"), str) and isinstance(options.get("refs"), str):
        yield "refs", Path(options["root"]) / options["refs"]


def known_classes(options: Options) -> tuple[str, ...] | None:
    """What the classes of a data set are called; None where only reading its annotations tells.

    Raises DataError for a class file that is not usable.
    """
    first = next(parts_of(options))
    reader = get_object(first["_target_"])
    if not inspect.isclass(reader):
        return None
    if issubclass(reader, SemanticDataset):
        named = _generated(first["classes"]) or read_names(first["classes"])
        return tuple(name for name in named if name not in first.get("ignore", ()))
    if not issubclass(reader, CocoDataset):
        return None
    classes = first.get("classes")
    if classes is None:
        classes = _listed(reader, first)
    if classes is None:
        return None
    names = tuple(str(name).strip() for name in classes)
    if first.get("separator"):
        names = part_wordings(names, first["separator"])[0]
    return renamed(names, first["rename"]) if first.get("rename") is not None else names


def _listed(reader: type[CocoDataset], options: Options) -> tuple[str, ...] | None:
    if issubclass(reader, VocDataset):
        return None if options.get("names") is None else read_names(options["names"], "names")
    if issubclass(reader, OpenImagesDataset):
        return tuple(read_labels(require(options["names"], "names")).values())
    if reader._records is not CocoDataset._records:  # another format of the annotation file
        return None
    path = Path(options["annotations"])
    return categories_of(path) if path.is_file() else _generated(path)


def _generated(where: Any) -> tuple[str, ...] | None:
    """The classes of digit scenes that are not there yet."""
    if not isinstance(where, (str, Path)) or Path(where).is_file():
        return None
    return GENERATED.get(Path(where).name)


def categories_of(path: Path) -> tuple[str, ...] | None:
    """The names in the list `categories` of a COCO file, found without parsing what stands before it."""
    if not path.stat().st_size:
        return None
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for found in _CATEGORIES.finditer(content):
            records = _list_at(content, found.end())
            if records and all(isinstance(r, dict) and {"id", "name"} <= set(r) for r in records):
                return tuple(str(record["name"]) for record in records)
    return None


def _list_at(content: mmap.mmap, start: int) -> list[Any] | None:
    """The JSON list that begins at a place; None if there is no whole one within `MAX_LIST` bytes."""
    size = 1 << 16
    while True:
        piece = content[start : start + size]
        try:
            return json.JSONDecoder().raw_decode(piece.decode("utf-8", "ignore"))[0]
        except ValueError:
            if size >= MAX_LIST or start + size >= len(content):
                return None
            size *= 4
        except RecursionError:
            return None
