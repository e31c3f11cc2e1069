"""YOLO: a text file per picture, `class x y width height` or `class x1 y1 x2 y2 ...`, in shares of it.

`data.yaml` names classes and splits (folders, lists of folders, or text files with one picture per line).
Without it `classes.txt` or Darknet's `obj.names` does. Labels lie in `labels/` where pictures lie in
`images/`, or beside.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml

from ufo.data.errors import DataError
from ufo.data.image_files import IMAGE_SUFFIXES
from ufo.data.labels.finding import spelled, walk
from ufo.data.labels.reading import Source, bounded, lines_of, peek, text_of
from ufo.data.labels.record import Box, Labels, Picture, Thing, split_of
from ufo.data.labels.shapes import numbers
from ufo.data.problems import DOUBTFUL
from ufo.ops.nearest import few
from ufo.yaml_files import check_yaml, texts_of_yaml

ABOUT = "YOLO txt files with data.yaml (or classes.txt): boxes and polygons"
ALIASES = ("yolov5", "yolov8", "yolov11", "ultralytics", "darknet")
ORDER = 20
NAMES = ("classes.txt", "obj.names", "classes.names", "predefined_classes.txt")
MAX_LABELS = 32 << 20
MAX_YAML = 1 << 20
MAX_CLASSES = 100_000
KEYPOINTS = "keypoints, of which only the box is taken"
FIFTH = "number behind a box (the score or the track of a prediction?), of which only the box is taken"


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
    labels.classes = _names(config, source, source.place(found) if found else "the yaml")
    if config.get("kpt_shape"):
        labels.notes.append("a set for poses: its boxes are taken, its keypoints are not")
    texts = Texts(source)
    known: dict[Path, Picture | None] = {}  # what is wrong with a picture of two splits is counted once
    for path, split in _pictures(source, labels, config, found):
        if path not in known:
            where = source.place(path)
            picture = source.open(path if path.is_file() else source.find(str(path)), where, split=split)
            if picture is not None:
                _label(source, labels, picture, texts.of(picture.path), bool(config.get("kpt_shape")))
            known[path] = picture
        if (opened := known[path]) is not None:
            labels.pictures.append(replace(opened, split=split))
    for path in texts.left_over():
        source.problems.report("text file without its picture", source.place(path))
    shapes = [p for picture in labels.pictures for thing in picture.things for p in thing.polygons]
    if shapes and all(len(shape) == 8 for shape in shapes):
        labels.notes.append(
            "all polygons have four corners: of turned boxes, train the source of the boxes around them alone"
        )
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
        text = text_of(path)
        content = yaml.safe_load(text)
        if isinstance(content, dict) and content.get("names"):  # names are texts, however they look
            content["names"] = texts_of_yaml(text)["names"]
    except (ValueError, yaml.YAMLError, RecursionError, DataError) as error:
        if quiet:
            return {}
        raise DataError(f"{path} is not a usable yaml: {' '.join(str(error).split())[:200]}") from error
    return content if isinstance(content, dict) else {}


def _names(config: dict[str, Any], source: Source, where: str) -> list[str]:
    """Class names by number: of a list, of a dict, or of a text file."""
    names = config.get("names")
    if isinstance(names, dict):
        try:
            numbered = {int(key): str(name).strip() for key, name in names.items()}
        except (TypeError, ValueError) as error:
            keys = few([str(key) for key in names], 3)
            raise DataError(
                f"{where}: `names` has a key that is not a number ({keys}); write the number of each class "
                "before its name."
            ) from error
        if numbered and not 0 <= min(numbered) <= max(numbered) < MAX_CLASSES:
            raise DataError(
                f"{where}: `names` has the numbers {min(numbered)} to {max(numbered)}; number classes from 0 "
                f"on, below {MAX_CLASSES}."
            )
        return [numbered.get(k, "") for k in range(max(numbered, default=-1) + 1)]
    if isinstance(names, list):
        return [str(name).strip() for name in names]
    if path := source.first(*NAMES):
        # a line's place is the class's number, so that an empty line is a class without a name
        return [line.strip() for line in "\n".join(lines_of(path)).rstrip().split("\n")]
    if names:
        raise DataError(
            f"{where}: `names` is {names!r}; a list of the class names is expected, as [{names}]."
        )
    for path in source.files(".yaml", ".yml", under=source.folder):
        _config(path)  # says what is wrong with a yaml that cannot be read
    raise DataError(
        f"{source.path} has neither `names` in a yaml nor a classes.txt; add one with the class names."
    )


def _pictures(
    source: Source, labels: Labels, config: dict[str, Any], path: Path | None
) -> Iterator[tuple[Path, str]]:
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
            listed = _entry(source, str(entry), bases)
            if listed is None and split == "test":  # Roboflow names it always
                labels.notes.append(f"there is no {entry}, which is the test split; training needs none")
            elif listed is None:
                source.problems.report("split whose folder is not below the imported one", str(entry))
            yield from ((picture, split_of(split)) for picture in listed or ())


def _entry(source: Source, entry: str, bases: list[Path]) -> list[Path] | None:
    """The pictures of one entry: a folder, or a text file that lists them. Only below the imported folder.

    None if it is neither.
    """
    words = [word for word in entry.replace("\\", "/").split("/") if word not in ("", ".")]
    inner = "/".join(word for word in words if word != "..")
    ends = ["/".join(words[k:]) for k in range(1, len(words))]  # of a path on another machine its last parts
    tried = [base / "/".join(words) for base in bases] + [base / inner for base in [*bases, source.folder]]
    tried += [folder / end for end in ["", inner, *ends] for folder in (source.images, source.folder)][2:]
    root = source.folder.resolve()
    for path in tried:
        known = path.resolve()
        if not (known.is_relative_to(root) or known.is_relative_to(source.images.resolve())):
            continue
        if path.is_dir():
            return [p for p in walk(path) if p.suffix.lower() in IMAGE_SUFFIXES]
        if path.is_file() and path.suffix.lower() == ".txt":
            names = [line.strip() for line in lines_of(path) if line.strip()]
            return [source.find(name, path.parent) or path.parent / Path(name).name for name in names]
    return None


# --- their labels


def _label_files(source: Source) -> bool:
    """Whether there is a text file of a picture's name."""
    stems = {name.rsplit(".", 1)[0] for name in source.pictures}
    return any(spelled(path.stem) in stems for path in source.files(".txt"))


class Texts:
    """The text files of an export, and which of them belong to a picture."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._paths = paths = source.files(".txt", under=source.folder)
        # Label Studio writes an umlaut of a text file's name as %C3%A4, and not that of its picture
        self._by_path = {_key(unquote(str(path))): path for path in paths}
        self._by_path |= {_key(path): path for path in paths}
        self._used: set[str] = set()
        # pictures elsewhere (--images) have their text files by name alone
        apart = not source.images.resolve().is_relative_to(source.folder.resolve())
        self._by_stem: dict[str, list[Path]] = {}
        for path in paths if apart else ():
            self._by_stem.setdefault(spelled(path.stem), []).append(path)

    def of(self, picture: Path) -> Path | None:
        """The text file of a picture: in `labels` in place of the last `images`, or beside it."""
        parts = list(picture.with_suffix(".txt").parts)
        tried = [Path(*parts)]
        for place in reversed([k for k, part in enumerate(parts[:-1]) if part.lower() == "images"]):
            tried.insert(0, Path(*parts[:place], "labels", *parts[place + 1 :]))
        there = (path if path.is_file() else self._by_path.get(_key(path)) for path in tried)
        named = self._by_stem.get(spelled(picture.stem), [])
        found = next((path for path in there if path), named[0] if len(named) == 1 else None)
        if found is not None:
            self._used.add(_key(found))
        return found

    def left_over(self) -> Iterator[Path]:
        """Text files that begin as labels do and whose picture is nowhere."""
        stems = self.source.stems
        for path in self._paths:
            named = spelled(path.stem) in stems or spelled(unquote(path.stem)) in stems
            if _key(path) not in self._used and not named:
                first = peek(path, 200).strip().split("\n")[0].split()
                if len(first) >= 5 and first[0].isdigit() and numbers(first):
                    yield path


def _key(path: Path | str) -> str:
    return spelled(os.path.abspath(path))


def _label(source: Source, labels: Labels, picture: Picture, path: Path | None, pose: bool) -> None:
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
        if pose or len(shape) in (4, 5):
            thing.box = _box(shape[:4], picture.size)
            if len(shape) > 4:
                source.problems.report(KEYPOINTS if pose else FIFTH, where, effect=DOUBTFUL)
        elif len(shape) % 2:
            source.problems.report("line that is no YOLO label", where)
            continue
        else:
            height, width = picture.size
            thing.polygons = [[v * (height if k % 2 else width) for k, v in enumerate(shape)]]
        if max(map(abs, shape if thing.polygons else shape[:4])) > 2:
            source.problems.report("label in pixels instead of shares of the picture", where)
            continue
        picture.things.append(thing)


def _box(shape: list[float], size: tuple[int, int]) -> Box:
    x, y, w, h = shape
    height, width = size
    return (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height
