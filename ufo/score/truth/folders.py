"""Annotations that other readers of the project read whole: ReasonSeg folders, JSONL files, label maps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ufo.data.datasets.jsonl import JsonlDataset
from ufo.data.datasets.reasonseg import ReasonSegDataset
from ufo.data.datasets.segmentations import RLE
from ufo.data.datasets.semantic import read_classes
from ufo.data.errors import DataError
from ufo.data.pictures import MAP_SUFFIXES, map_size
from ufo.score.truth.examples import Example, Truth
from ufo.types import Target


def read_reasonseg(folder: Path) -> Truth:
    """One example per text of ReasonSeg; the images lie beside their JSON files."""
    data = ReasonSegDataset(folder)
    return _of_targets(folder, (data.target(i) for i in range(len(data))), boxes=False)


def read_jsonl(path: Path, images: Path | None) -> Truth:
    """One example per text of a JSONL file of expressions; see `JsonlDataset` for its fields.

    Args:
        images: folder of images and mask files, by default the file's.
    """
    data = JsonlDataset(images or path.parent, path, check_images=False)
    truth = _of_targets(path, (data.target(i) for i in range(len(data))), masks="masks" in data.provides)
    truth.lines = True
    for i, example in enumerate(truth.examples):
        example.id, example.names = data.line(i), (str(example.image),)
        if not any(example.areas):  # an empty list of masks: the text means nothing
            example.boxes, example.areas, truth.generalized = [], [], True
    return truth


def _of_targets(path: Path, targets: Iterator[Target], boxes: bool = True, masks: bool = True) -> Truth:
    """Examples of expressions made of what the data sets give for evaluation."""
    examples = []
    for target in targets:
        found: list[RLE] = target.masks or []
        example = Example(target.image_id, (target.image,), target.size, target.text)
        example.ignore, example.sentence = target.ignore, target.sentence
        example.masks = found.copy
        if target.boxes is not None:
            example.boxes = [[x, y, right - x, low - y] for x, y, right, low in target.boxes.tolist()]
        example.areas = [w * h for _, _, w, h in example.boxes]
        examples.append(example)
    return Truth(path, examples, expressions=True, boxes=boxes, masks=masks)


def read_maps(folder: Path, classes: str | Path | None, zero_is_nothing: bool) -> Truth:
    """One example per label map of a folder and its sub-folders.

    Args:
        classes: file with a name per line, in the order of the numbers in the maps.
        zero_is_nothing: the maps number classes from 1, and 0 does not count (`--reduce-zero-label`).
    """
    if classes is None:
        raise DataError("Label maps hold numbers: give --classes, a text file with one class name per line.")
    names = read_classes(classes)
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in MAP_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not paths:
        raise DataError(f"{folder} has no label maps ({', '.join(MAP_SUFFIXES)}).")
    examples = []
    for path in paths:
        name = path.relative_to(folder).with_suffix("").as_posix()
        examples.append(Example(name, (), map_size(path), map=path))
    first = int(zero_is_nothing)
    numbers = tuple(range(first, first + len(names)))
    return Truth(folder, examples, names, boxes=False, masks=False, numbers=numbers)
