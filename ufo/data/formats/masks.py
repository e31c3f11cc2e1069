"""Class maps: Roboflow's `*_mask.png` beside the pictures with `_classes.csv`, and CVAT's segmentation masks.

`_classes.csv` gives the class of every number ("Pixel Value, Class"); `labelmap.txt` gives the class of every
colour of the PNG files in `SegmentationClass/`, which may be palette, grey or colour pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image

from ufo.data.errors import DataError
from ufo.data.labels.reading import Source, lines_of, rows_of
from ufo.data.labels.record import Labels, Picture, split_of
from ufo.data.pictures import map_size, read_image, read_label_map
from ufo.data.problems import Problems
from ufo.ops.nearest import few
from ufo.types import IGNORE

ABOUT = "class maps as PNG: Roboflow's semantic masks, CVAT's segmentation masks"
ALIASES = ("semantic", "png_masks", "segmentation_mask", "smask")
ORDER = 25
MASK, FOLDER = "_mask", "SegmentationClass"
BACKGROUND = "background"
NO_NUMBER = "map with numbers that stand for no class, whose pixels do not count"
NO_COLOUR = "map with colours that stand for no class, whose pixels do not count"
VOID = 0xE0E0C0  # the colour of what does not count in Pascal VOC
# the order of the classes in the maps of Pascal VOC itself, behind the background
VOC = [
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
]


def recognise(source: Source) -> str:
    if found := source.first("_classes.csv"):
        masks = any(name.endswith(f"{MASK}.png") for name in source.pictures)
        return source.place(found) if masks else ""
    found = source.first("labelmap.txt")
    xml = source.files(".xml")
    return source.place(found) if found and not xml and _maps(source) else ""


def read(source: Source) -> Labels:
    """The maps of every split."""
    labels = Labels([], source.problems)
    if not source.first("_classes.csv"):
        add_maps(source, labels, [])
        return labels
    tables = [path for path in source.files(".csv") if path.name == "_classes.csv"]
    for path in tables:
        numbers = _numbers(path)
        for name in numbers.values():
            if name not in labels.map_classes:
                labels.map_classes.append(name)
        table = {number: labels.map_classes.index(name) for number, name in numbers.items()}
        folder = path.parent
        for mask in source.files(".png", under=folder):
            if mask.parent != folder or not mask.stem.endswith(MASK):
                continue
            stem = mask.stem.removesuffix(MASK)
            inside = folder.relative_to(source.folder).parts
            split = next((split_of(part) for part in reversed(inside) if split_of(part)), "")
            picture = source.open(source.with_stem(stem, folder), source.place(mask), split=split)
            if picture is not None and _fits(source, picture, mask):
                picture.class_map = partial(numbered_map, mask, table, source.problems)
                labels.pictures.append(picture)
    return labels


def add_maps(
    source: Source, labels: Labels, names: Sequence[str], split: Callable[[Path], str] = lambda _: ""
) -> None:
    """The maps in `SegmentationClass`; `names` are their classes in order, if no list of them is there."""
    maps = _maps(source)
    if not maps:
        return
    listed = source.first("labelmap.txt")
    colours = _colours(listed) if listed else {}
    if listed:
        labels.map_classes = list(colours)
    else:
        official = set(names) <= set(VOC)
        labels.map_classes = [BACKGROUND, *(VOC if official else names)]
        if not official:
            labels.notes.append(
                f"no labelmap.txt: numbers 1, 2, ... of the maps are taken as {', '.join(names[:5])}, ..."
            )
    numbers = {k: k for k in range(len(labels.map_classes))}
    for path in maps:
        found = source.with_stem(path.stem, path.parent)
        picture = source.open(found, source.place(path), split=split(path))
        if picture is not None and _fits(source, picture, path):
            picture.class_map = _reader(path, list(colours.values()), numbers, source.problems)
            labels.pictures.append(picture)


def _maps(source: Source) -> list[Path]:
    return [path for path in source.files(".png") if path.parent.name == FOLDER]


def _fits(source: Source, picture: Picture, path: Path) -> bool:
    """Whether the map has the size of its picture, in one of the orientations that this may have."""
    try:
        size = map_size(path)
    except DataError as error:
        source.problems.report("map that cannot be read", str(error))
        return False
    if size not in (picture.size, picture.size[::-1]):
        source.problems.report(
            "map of another size than its picture", f"{source.place(path)}: {size} and {picture.size}"
        )
        return False
    return True


def _reader(
    path: Path, colours: list[tuple[int, int, int]], numbers: dict[int, int], problems: Problems
) -> Callable[[], np.ndarray]:
    """How to read a map: by its colours, if a list of them is there and it has any, else by its numbers."""
    if not colours:
        return partial(numbered_map, path, numbers, problems)
    with PIL.Image.open(path, formats=("PNG",)) as image:
        by_colour = image.mode in ("RGB", "RGBA", "P")
    if by_colour:
        return partial(coloured_map, path, colours, problems)
    return partial(numbered_map, path, numbers, problems)


def numbered_map(path: Path, table: dict[int, int], problems: Problems) -> np.ndarray:
    """uint8 [H, W] of a map of numbers; what the table lacks does not count, which is said but for 255."""
    labels = read_label_map(path).numpy()
    found = np.full(labels.shape, IGNORE, dtype=np.uint8)
    for number, place in table.items():
        found[labels == number] = place
    others = np.setdiff1d(labels[found == IGNORE], [IGNORE]).tolist()
    if others:
        problems.report_once(NO_NUMBER, f"{path.name}: {few([str(number) for number in others], 5)}")
    return found


def coloured_map(path: Path, colours: Sequence[tuple[int, int, int]], problems: Problems) -> np.ndarray:
    """uint8 [H, W] of a map in which every class has a colour; others do not count, which is said."""
    pixels = read_image(path, say=lambda kind, where: None).numpy().astype(np.int32)
    code = (pixels[0] << 16) | (pixels[1] << 8) | pixels[2]
    found = np.full(code.shape, IGNORE, dtype=np.uint8)
    for place, (red, green, blue) in enumerate(colours):
        found[code == (red << 16) | (green << 8) | blue] = place
    others = np.setdiff1d(code[found == IGNORE], VOID).tolist()
    if others:
        said = [f"{value >> 16},{value >> 8 & 255},{value & 255}" for value in others]
        problems.report_once(NO_COLOUR, f"{path.name}: {few(said, 5)}")
    return found


def _numbers(path: Path) -> dict[int, str]:
    """Class by number, of `_classes.csv`."""
    found: dict[int, str] = {}
    for line, row in rows_of(path):
        if row[0].isdigit() and len(row) > 1:
            found[int(row[0])] = row[1]
        elif line > 1:
            raise DataError(f"{path}, line {line}: a number and the name of its class are expected.")
    if not found or max(found) >= IGNORE:
        raise DataError(f"{path} gives no class numbers from 0 to {IGNORE - 1}.")
    return dict(sorted(found.items()))


def _colours(path: Path) -> dict[str, tuple[int, int, int]]:
    """Colour by class, of CVAT's `labelmap.txt`: lines such as `bird:128,0,0::`."""
    found: dict[str, tuple[int, int, int]] = {}
    for line, text in enumerate(lines_of(path), start=1):
        if text.strip() and not text.startswith("#"):
            name, _, rest = text.partition(":")
            parts = rest.split(":")[0].split(",")
            if len(parts) != 3 or not all(p.strip().isdigit() and int(p) < 256 for p in parts):
                raise DataError(f"{path}, line {line}: `name:red,green,blue::` is expected.")
            red, green, blue = map(int, parts)
            if name.strip() in found or (red, green, blue) in found.values():
                raise DataError(
                    f"{path}, line {line}: a class, or a colour, that another line has; keep one."
                )
            found[name.strip()] = (red, green, blue)
    if not 0 < len(found) < IGNORE:
        raise DataError(f"{path} names {len(found)} classes; maps have 1 to {IGNORE - 1}.")
    return found
