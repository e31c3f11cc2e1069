"""Hugging Face `datasets`: an imagefolder with `metadata.jsonl` or `metadata.csv` beside the pictures.

`file_name` and `objects` (`bbox`: x, y, width, height in pixels; `category` or `categories`: names or
numbers), or a column with a text: captions. Names of numbers stand in the README's `dataset_info`, else in
`--classes`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from ufo.data.errors import DataError
from ufo.data.labels.reading import Source, objects_of, peek, rows_of
from ufo.data.labels.record import Labels, Picture, Thing, split_of
from ufo.data.labels.shapes import number, numbers
from ufo.data.problems import DOUBTFUL
from ufo.data.texts import NO_TEXT
from ufo.yaml_files import texts_of_yaml

ABOUT = "Hugging Face imagefolders: metadata.jsonl or .csv with objects or captions"
ALIASES = ("huggingface", "hugging_face", "hf", "datasets", "hf_datasets", "autotrain")
ORDER = 10
NAMES = ("metadata.jsonl", "metadata.csv")
FILE = ("file_name", "image", "image_file_name", "filename")
TEXTS = ("text", "caption", "captions", "texts", "description", "sentences")
CATEGORIES = ("category", "categories", "label", "labels", "class", "classes", "category_id", "id_category")
README = 1 << 16


def recognise(source: Source) -> str:
    return source.sign(_files(source))


def read(source: Source) -> Labels:
    """The pictures of all metadata files; folders called after a split are one."""
    labels = Labels([], source.problems)
    files = _files(source)
    if not files:
        raise DataError(f"There is no {' or '.join(NAMES)} in {source.path}; parquet files are not read.")
    numbered = _numbered(source)
    labels.classes = list(numbered)
    for path in files:
        split = source.split(path)
        for line, record in _records(path):
            where = source.place(path, line)
            if not isinstance(record, dict):
                source.problems.report("line that is no record", where)
                continue
            picture = _picture(source, record, path, where, split)
            if picture is None:
                continue
            try:
                rows = _rows(record.get("objects"))
            except ValueError as error:  # what is there is not known, so that it is no empty picture either
                source.problems.report(str(error), where)
                continue
            picture.things = list(_things(source, rows, numbered, where))
            labels.pictures.append(picture)
    return labels


def _files(source: Source) -> list[Path]:
    return [path for path in source.files(".jsonl", ".csv") if path.name.lower() in NAMES]


def _records(path: Path) -> Iterator[tuple[int, Any]]:
    if path.suffix.lower() == ".jsonl":
        yield from objects_of(path)
        return
    rows = rows_of(path)
    for line, row in rows[1:]:
        record: dict[str, Any] = dict(zip(rows[0][1], row, strict=False))
        if isinstance(text := record.get("objects"), str):
            with suppress(ValueError):  # else counted as objects in another form
                record["objects"] = json.loads(text)
        yield line, record


def _picture(source: Source, record: dict[str, Any], path: Path, where: str, split: str) -> Picture | None:
    name = next((record[key] for key in FILE if isinstance(record.get(key), str)), None)
    if name is None:
        source.problems.report("record without a file name", where)
        return None
    split = next((found for part in source.inside(name) if (found := split_of(part))), split)
    picture = source.open(source.find(name, path.parent), f"{where}: {name[:200]}", split=split)
    if picture is not None:
        for key in TEXTS:
            if key not in record:
                continue
            for text in record[key] if isinstance(record[key], list) else [record[key]]:
                if isinstance(text, str):
                    picture.captions.append(text.strip())
                else:
                    source.problems.report(NO_TEXT, where)
    return picture


def _rows(objects: Any) -> list[dict[str, Any]]:
    """The objects of a record: a table of columns, or a list of records. ValueError in another form."""
    if objects in (None, ""):
        return []
    if isinstance(objects, list):
        return [entry for entry in objects if isinstance(entry, dict)]
    if not isinstance(objects, dict):
        raise ValueError("objects that are neither a table nor a list")
    boxes = objects.get("bbox", objects.get("bboxes"))
    key = next((key for key in CATEGORIES if isinstance(objects.get(key), list)), "")
    classes = objects.get(key) or []
    if not isinstance(boxes, list) or len(boxes) != len(classes):
        raise ValueError("record whose boxes and categories do not match")
    texts = objects.get("text")
    texts = texts if isinstance(texts, list) else [""] * len(boxes)
    return [{"bbox": b, "category": c, "text": t} for b, c, t in zip(boxes, classes, texts, strict=False)]


def _things(
    source: Source, rows: list[dict[str, Any]], numbered: dict[str, int], where: str
) -> Iterator[Thing]:
    """The objects of a record that have a box and a category."""
    by_number = {place: name for name, place in numbered.items()}
    for place, row in enumerate(rows, start=1):
        at = f"{where}, object {place}"
        box = numbers(row.get("bbox"), 4)
        said = next((row[key] for key in CATEGORIES if key in row), None)
        if box is None or said is None:
            source.problems.report("object without a box or a category", at)
            continue
        if (value := number(said)) is not None and value.is_integer() and value >= 0:
            given = dict(enumerate(source.classes or ()))
            said = by_number.get(int(value)) or given.get(int(value))
            if said is None:
                kind = "category without a name, called after its number: give --classes"
                source.problems.report(kind, at, effect=DOUBTFUL)
                said = f"class {int(value)}"
        text = row.get("text")
        x, y, width, height = box
        yield Thing(
            str(said).strip(),
            (x, y, x + width, y + height),
            text=text if isinstance(text, str) else "",
            where=at,
        )


def _numbered(source: Source) -> dict[str, int]:
    """Numbers of the class names in the README's head, as `datasets` writes it."""
    readme = source.first("readme.md")
    start = peek(readme, README) if readme else ""
    if not start.startswith("---"):
        return {}
    head = start[3:].split("\n---")[0]
    try:
        content = None if "*" in head and "&" in head else texts_of_yaml(head)
    except (yaml.YAMLError, RecursionError):
        return {}
    found = _class_label(content, 0)
    try:
        return {str(name): int(key) for key, name in sorted(found.items(), key=lambda pair: int(pair[0]))}
    except (TypeError, ValueError):
        return {}


def _class_label(value: Any, depth: int) -> dict[Any, Any]:
    """The first `class_label: {names: ...}` below."""
    if depth > 20:
        return {}
    if isinstance(value, dict):
        names = value["class_label"].get("names") if isinstance(value.get("class_label"), dict) else None
        if names:
            return dict(enumerate(names)) if isinstance(names, list) else names
        value = list(value.values())
    for inner in value if isinstance(value, list) else ():
        if found := _class_label(inner, depth + 1):
            return found
    return {}
