"""Predictions in files: COCO results and other lists of JSON, JSONL, folders of PNG masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ufo.data.errors import DataError
from ufo.data.json_lines import holds_lines, is_jsonl, read_lines
from ufo.data.json_stream import EMPTY, json_records
from ufo.data.pictures import MAP_SUFFIXES
from ufo.ops.nearest import beside
from ufo.score.predictions.answers import Answer, read_record
from ufo.score.texts import TextFormat

__all__ = ["Answer", "is_coco_results", "read_predictions"]

LISTS = ("", "annotations", "predictions", "results")


def is_coco_results(path: Path) -> bool:
    """A list of JSON records, as COCO's results: its boxes are `[x, y, width, height]` by definition."""
    named = path.suffix.lower() == ".json" or is_jsonl(path)
    return named and path.is_file() and not holds_lines(path)


def read_predictions(
    path: Path, texts: TextFormat | None, key: str = "", whole: bool = False
) -> list[Answer]:
    """The records of a file, or the pictures of a folder. Raises DataError in one sentence.

    Args:
        texts: the format of answers in words; None: boxes and masks are fields.
        key: the answer is the text in this field, as it is; "": it is not.
        whole: the records are kept, for a kind that reads its own.
    """
    if path.is_dir():
        return _pictures(path)
    if not path.is_file():
        raise DataError(f"there is no file or folder {path}{beside(path)}")
    if is_coco_results(path):
        return _of_json(path, texts, key, whole)
    if path.suffix.lower() == ".json" or is_jsonl(path):
        lines = read_lines(path)
        return [read_record(record, f"{path}, line {line}", texts, key, whole) for line, record in lines]
    raise DataError(
        f"{path}: predictions are a .json list (COCO results), a .jsonl file or a folder of PNG masks."
    )


def _of_json(path: Path, texts: TextFormat | None, key: str, whole: bool) -> list[Answer]:
    answers: list[Answer] = []
    known = False
    for section, record in json_records(path, once=True):
        if section not in LISTS:
            continue
        known = True
        if record is EMPTY:
            continue
        where = f"{path}, record {len(answers) + 1}"
        if not isinstance(record, dict):
            raise DataError(f"{where} is not a JSON object in {{...}}; leave it out.")
        answers.append(read_record(record, where, texts, key, whole))
    if not known:
        raise DataError(
            f"{path} is no list of predictions; write [{{...}}, {{...}}] as COCO's results, or that list "
            f"under one of {', '.join(filter(None, LISTS))}."
        )
    return answers


def _pictures(folder: Path) -> list[Answer]:
    """A mask or a label map per file; which example it belongs to is in its name without the suffix."""
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in MAP_SUFFIXES and p.is_file())
    if not paths:
        raise DataError(f"{folder} has no pictures of masks ({', '.join(MAP_SUFFIXES)}).")
    found = []
    for path in paths:
        name = path.relative_to(folder).with_suffix("").as_posix()
        found.append(Answer(str(path), id=name, image=name, masks=[path], boxes=np.zeros((1, 4))))
    return found
