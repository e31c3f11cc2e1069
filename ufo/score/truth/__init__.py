"""Annotations of other evaluators' formats, told apart by their layout."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ufo.data.errors import DataError
from ufo.data.json_lines import holds_lines, is_jsonl
from ufo.data.json_stream import json_records
from ufo.ops.nearest import beside
from ufo.score.truth.coco import read_coco
from ufo.score.truth.examples import Example, Truth
from ufo.score.truth.folders import read_jsonl, read_maps, read_reasonseg
from ufo.score.truth.refer import read_refer

__all__ = ["Example", "Truth", "Wanted", "is_annotations", "read_truth"]


@dataclass(frozen=True)
class Wanted:
    """What an annotation file leaves open."""

    split: str | None = None
    refs: str | None = None
    images: Path | None = None
    classes: Path | None = None
    reduce_zero_label: bool = False


def read_truth(path: Path, wanted: Wanted) -> Truth:
    """COCO (`.json`), JSONL, or a folder of RefCOCO, gRefCOCO, ReasonSeg or label maps. Raises DataError."""
    if not path.exists():
        raise DataError(f"there is no file or folder {path}{beside(path)}")
    if path.is_file():
        if path.suffix.lower() != ".json" and not is_jsonl(path) and not _is_json(path):
            raise DataError(
                f"{path}: annotations are a COCO .json, a .jsonl, or a folder of RefCOCO, gRefCOCO, "
                "ReasonSeg or label maps; `ufo data import` makes a COCO .json of other files."
            )
        if holds_lines(path):
            _refuse_unused(wanted, f"{path}, a JSONL file,", "images")
            return read_jsonl(path, wanted.images)
        _refuse_unused(wanted, f"{path}, a COCO file,")
        return read_coco(path)
    if wanted.refs or _of_expressions(path):
        _refuse_unused(wanted, f"{path}, a folder of referring expressions,", "split", "refs")
        return read_refer(path, wanted.split, wanted.refs)
    if any(map(_of_reasonseg, sorted(path.glob("*.json"))[:3])):
        _refuse_unused(wanted, f"{path}, a folder of ReasonSeg,")
        return read_reasonseg(path)
    _refuse_unused(wanted, f"{path}, a folder of label maps,", "classes", "reduce_zero_label")
    return read_maps(path, wanted.classes, wanted.reduce_zero_label)


def _refuse_unused(wanted: Wanted, what: str, *read: str) -> None:
    """Raises DataError for what is said of annotations and not read with these: it would change nothing."""
    for name, value in vars(wanted).items():
        if value and name not in read:
            option = f"--{name.replace('_', '-')}"
            raise DataError(f"{option} says nothing about {what} and would not be read; drop it.")


def is_annotations(path: Path) -> bool:
    """Whether a file or folder shows by its layout that it holds annotations and no predictions."""
    if path.is_dir():
        return _of_expressions(path) or any(map(_of_reasonseg, sorted(path.glob("*.json"))[:3]))
    sections = set()
    try:
        for section, _ in json_records(path):
            sections.add(section)
            if {"images", "categories", "annotations"} <= sections:
                return True
    except (OSError, DataError):
        pass
    return False


def _of_expressions(folder: Path) -> bool:
    return any(folder.glob("refs(*).p")) or any(folder.glob("grefs(*).json"))


def _is_json(path: Path) -> bool:
    """Whether a file of any other name begins as an object or a list of JSON."""
    with path.open("rb") as file:
        return file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[")


def _of_reasonseg(path: Path) -> bool:
    try:
        content = json.loads(path.read_bytes().decode("utf-8", "replace"))
    except ValueError:
        return False
    return isinstance(content, dict) and "is_sentence" in content
