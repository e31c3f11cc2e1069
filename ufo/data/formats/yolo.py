"""YOLO: a text file per picture, `class x y width height` or `class x1 y1 x2 y2 ...`, in shares of it.

`data.yaml` names classes and splits (folders, lists of folders, or text files with one picture per line).
Without it `classes.txt` or Darknet's `obj.names` does. Labels lie in `labels/` where pictures lie in
`images/`, or beside.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ufo.data.errors import DataError
from ufo.data.image_files import IMAGE_SUFFIXES
from ufo.data.labels.reading import Source, bounded, lines_of, walk
from ufo.data.labels.record import Box, Labels, Picture, Thing, split_of
from ufo.data.labels.shapes import numbers
from ufo.data.problems import DOUBTFUL
from ufo.yaml_files import check_yaml

ABOUT = "YOLO txt files with data.yaml (or classes.txt): boxes and polygons"
ALIASES = ("yolov5", "yolov8", "yolov11", "ultralytics", "darknet")
ORDER = 20
NAMES = ("classes.txt", "obj.names", "classes.names", "predefined_classes.txt")
MAX_LABELS = 32 << 20
MAX_YAML = 1 << 20


def recognise(source: Source) -> str:
    if found := _yaml(source):
        return source.place(found)
    names = source.first(*NAMES)
    return source.place(names) if names and _label_files(source) else ""


def read(source: Source) -> Labels:
    """The splits of the yaml, or all pictures below the folder."""
    labels = Labels([], source.problems)
    found = _yaml(source)
    config = _config(found) if found else {}
    labels.classes = _names(config, source)
    if config.get("kpt_shape"):
        labels.notes.append("a set for poses: its boxes are taken, its keypoints are not")
    for path, split in _pictures(source, config, found):
        where = source.place(path)
        picture = source.open(path if path.is_file() else source.find(str(path)), where, split=split)
        if picture is not None:
            _label(source, labels, picture, bool(config.get("kpt_shape")))
            labels.pictures.append(picture)
    if not labels.pictures:
        raise DataError(
            f"No picture that {source.path} names is there: {source.problems.summary()}; give --images "
            "FOLDER if they are elsewhere."
        )
    return labels


# --- which pictures


def _yaml(source: Source) -> Path | None:
    """The yaml that names classes and a training split."""
    found = [p for p in source.files(".yaml", ".yml") if {"names", "train"} & _config(p, quiet=True).keys()]
    named = [p for p in found if "names" in _config(p, quiet=True)]
    return min(named or found, key=lambda p: (len(p.parts), p.name != "data.yaml", p), default=None)


def _config(path: Path, quiet: bool = False) -> dict[str, Any]:
    try:
        check_yaml(bounded(path, MAX_YAML))
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (ValueError, yaml.YAMLError, UnicodeDecodeError, RecursionError, DataError) as error:
        if quiet:
            return {}
        raise DataError(f"{path} is not a usable yaml: {' '.join(str(error).split())[:200]}") from error
    return content if isinstance(content, dict) else {}


def _names(config: dict[str, Any], source: Source) -> list[str]:
    """Class names by number: of a list, of a dict, or of a text file."""
    names = config.get("names")
    if isinstance(names, dict):
        try:
            numbered = {int(key): str(name) for key, name in names.items()}
        except (TypeError, ValueError) as error:
            raise DataError("`names` of the yaml has a key that is not a number.") from error
        if numbered and not 0 <= min(numbered) <= max(numbered) < 100_000:
            raise DataError("`names` of the yaml has numbers that are no class numbers.")
        return [numbered.get(k, "") for k in range(max(numbered, default=-1) + 1)]
    if isinstance(names, list):
        return [str(name) for name in names]
    if path := source.first(*NAMES):
        return [line.strip() for line in lines_of(path) if line.strip()]
    raise DataError(
        f"{source.path} has neither `names` in a yaml nor a classes.txt; add one with the class names."
    )


def _pictures(source: Source, config: dict[str, Any], path: Path | None) -> Iterator[tuple[Path, str]]:
    """(picture, split) of every split of the yaml; without one, all pictures there are."""
    splits = {key: config[key] for key in ("train", "val", "valid", "test") if config.get(key)}
    if not splits or path is None:
        for found in sorted(p for paths in source.pictures.values() for p in paths):
            inside = (
                found.relative_to(source.images).parts[:-1] if found.is_relative_to(source.images) else ()
            )
            yield found, next((split_of(part) for part in inside if split_of(part)), "")
        return
    bases = [path.parent]
    if isinstance(config.get("path"), str):
        bases = [path.parent / config["path"], path.parent / Path(config["path"]).name, *bases]
    for split, said in splits.items():
        for entry in said if isinstance(said, list) else [said]:
            for found in _entry(source, str(entry), bases):
                yield found, split_of(split)


def _entry(source: Source, entry: str, bases: list[Path]) -> Iterator[Path]:
    """The pictures of one entry: a folder, or a text file that lists them. Only below the imported folder."""
    words = [word for word in entry.replace("\\", "/").split("/") if word not in ("", ".")]
    inner = "/".join(word for word in words if word != "..")
    tried = [base / "/".join(words) for base in bases] + [base / inner for base in [*bases, source.folder]]
    tried += [source.images, source.images / inner, source.images / (words[-1] if words else "")][1:]
    root = source.folder.resolve()
    for path in tried:
        known = path.resolve()
        if not (known.is_relative_to(root) or known.is_relative_to(source.images.resolve())):
            continue
        if path.is_dir():
            yield from (p for p in walk(path) if p.suffix.lower() in IMAGE_SUFFIXES)
            return
        if path.is_file() and path.suffix.lower() == ".txt":
            for line in lines_of(path):
                if line.strip():
                    yield source.find(line.strip(), path.parent) or path.parent / Path(line.strip()).name
            return
    source.problems.report("split whose folder is not below the imported one", entry)


# --- their labels


def _label_files(source: Source) -> bool:
    """Whether there is a text file of a picture's name."""
    stems = {name.rsplit(".", 1)[0] for name in source.pictures}
    return any(path.stem.lower() in stems for path in source.files(".txt"))


def _label_file(picture: Path) -> Path | None:
    """The text file of a picture: in `labels` in place of the last `images`, or beside it."""
    parts = list(picture.with_suffix(".txt").parts)
    tried = [Path(*parts)]
    for place in reversed([k for k, part in enumerate(parts[:-1]) if part.lower() == "images"]):
        tried.insert(0, Path(*parts[:place], "labels", *parts[place + 1 :]))
    return next((path for path in tried if path.is_file()), None)


def _label(source: Source, labels: Labels, picture: Picture, pose: bool) -> None:
    path = _label_file(picture.path)
    if path is None:
        picture.labelled = False
        source.problems.report(
            "picture without a text file, taken as one without objects", picture.path.name, effect=DOUBTFUL
        )
        return
    for line, text in enumerate(lines_of(path, MAX_LABELS), start=1):
        if not text.strip():
            continue
        where = source.place(path, line)
        values = numbers(text.split())
        if values is None or len(values) < 5 or not float(values[0]).is_integer():
            source.problems.report("line that is no YOLO label", where)
            continue
        number, shape = int(values[0]), values[1:]
        if not 0 <= number < len(labels.classes) or not labels.classes[number]:
            source.problems.report("object of a class number without a name", f"{where}: {number}")
            continue
        thing = Thing(labels.classes[number], where=where)
        if pose or len(shape) in (4, 5):  # a fifth number is the score of a prediction
            thing.box = _box(shape[:4], picture.size)
            if pose and len(shape) > 4:
                source.problems.report("keypoints, of which only the box is taken", where, effect=DOUBTFUL)
        elif len(shape) % 2:
            source.problems.report("line that is no YOLO label", where)
            continue
        else:
            height, width = picture.size
            thing.polygons = [[v * (height if k % 2 else width) for k, v in enumerate(shape)]]
        if max(shape[:4]) > 2:
            source.problems.report("label in pixels instead of shares of the picture", where)
            continue
        picture.things.append(thing)


def _box(shape: list[float], size: tuple[int, int]) -> Box:
    x, y, w, h = shape
    height, width = size
    return (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height
