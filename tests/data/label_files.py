"""The same few labels in the layouts of label tools, as `benchmarks/label_layouts` writes them.

`TRUTH` has boxes in whole pixels x1, y1, x2, y2 and polygons as COCO writes them.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import sys
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from files import write_image, write_json
from pycocotools import mask as coco_mask

from ufo.data.formats import format_named
from ufo.data.labels.reading import Source
from ufo.data.labels.record import Labels
from ufo.data.labels.shapes import around, mask_rle, pairs_of
from ufo.data.labels.tidy import tidy

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))  # which write such exports, too

from label_layouts import LAYOUTS, Scene, Thing, by_project

HEIGHT, WIDTH = 48, 64
OWL, TIT = "owl", "great tit"
CLASSES = [TIT, OWL]  # not in the order of the alphabet reversed, nor in that of appearance
POLYGON = [10.0, 8.0, 40.0, 10.0, 30.0, 40.0]

TRUTH: dict[str, list[Thing]] = {
    "a.jpg": [Thing(OWL, (4, 8, 24, 24)), Thing(TIT, (10, 8, 40, 40), POLYGON)],
    "b 1.png": [Thing(OWL, (0, 0, 64, 48))],
    "c.jpeg": [Thing(TIT, (30, 20, 50, 41))],
}


def pictures(folder: Path, *names: str) -> Path:
    """Write the pictures of `TRUTH`, or some of them."""
    for name in names or TRUTH:
        write_image(folder / name, HEIGHT, WIDTH)
    return folder


def imported(module: Any, path: Path, classes: list[str] | None = None, **options: Any) -> Labels:
    """What a format's module reads, tidied."""
    labels = module.read(Source(path, scratch=path.parent / "scratch", classes=classes, **options))
    tidy(labels, classes)
    return labels


def boxes(labels: Labels) -> dict[str, list[tuple[str, tuple[float, ...]]]]:
    """Class and box by picture, rounded to a thousandth of a pixel."""
    return {
        picture.path.name: [(t.label, tuple(round(v, 3) for v in t.box or ())) for t in picture.things]
        for picture in labels.pictures
    }


def true_boxes() -> dict[str, list[tuple[str, tuple[float, ...]]]]:
    return {
        name: [(t.label, tuple(round(float(v), 3) for v in t.box)) for t in things]
        for name, things in TRUTH.items()
    }


def tree_hash(folder: Path) -> str:
    """One number for names and contents of all files below a folder."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()


def png(mask: np.ndarray) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(mask).save(file, format="PNG")
    return file.getvalue()


# --- one function per tool: writes into a folder, returns what is imported


OWN_SPLIT = ("yolo", "voc", "roboflow", "supervisely", "imagefolder")


def scenes(divided: bool, *names: str) -> list[Scene]:
    """The pictures of `TRUTH`, or some of them; `divided` puts the last one into validation."""
    found = []
    for name in names or TRUTH:
        split = ("val" if name == "c.jpeg" else "train") if divided else ""
        found.append(Scene(name, (HEIGHT, WIDTH), TRUTH[name], _save, split))
    return found


def _save(path: Path) -> None:
    write_image(path, HEIGHT, WIDTH)


def write_layout(tool: str, root: Path) -> Path:
    return LAYOUTS[tool].write(root, scenes(tool in OWN_SPLIT), CLASSES)


yolo = partial(write_layout, "yolo")
voc = partial(write_layout, "voc")
labelme = partial(write_layout, "labelme")
cvat = partial(write_layout, "cvat")
coco = partial(write_layout, "cvat_coco")
roboflow = partial(write_layout, "roboflow")
label_studio = partial(write_layout, "label_studio")
supervisely = partial(write_layout, "supervisely")
via = partial(write_layout, "via")
imagefolder = partial(write_layout, "imagefolder")
table = partial(write_layout, "csv")


def cvat_text(images: str = "") -> str:
    return by_project.cvat_text(CLASSES, images)


def coco_content(names: list[str]) -> dict[str, Any]:
    return by_project.coco_content(scenes(False, *names) if names else [], CLASSES)


def bitmap(mask: np.ndarray, left: int, top: int) -> dict[str, Any]:
    """A figure of Supervisely: a packed PNG at its place."""
    data = base64.b64encode(zlib.compress(png(mask))).decode()
    return {"classTitle": OWL, "geometryType": "bitmap", "bitmap": {"origin": [left, top], "data": data}}


def masks(root: Path) -> Path:
    """Roboflow's semantic masks: in `train`, owls are 2 in their boxes and tits 1."""
    for split, names in {"train": ["a.jpg", "b 1.png"], "valid": ["c.jpeg"]}.items():
        pictures(root / split, *names)
        (root / split / "_classes.csv").write_text(
            "Pixel Value, Class\n0, background\n1, great tit\n2, owl\n"
        )
        for name in names:
            PIL.Image.fromarray(class_map(name)).save(root / split / f"{Path(name).stem}_mask.png")
    return root


def class_map(name: str) -> np.ndarray:
    found = np.zeros((HEIGHT, WIDTH), np.uint8)
    for thing in TRUTH[name]:
        x1, y1, x2, y2 = (int(v) for v in thing.box)
        found[y1:y2, x1:x2] = CLASSES.index(thing.label) + 1
    return found


TOOLS: dict[str, Callable[[Path], Path]] = {
    "yolo": yolo,
    "voc": voc,
    "labelme": labelme,
    "cvat": cvat,
    "coco": coco,
    "roboflow": roboflow,
    "label_studio": label_studio,
    "supervisely": supervisely,
    "via": via,
    "imagefolder": imagefolder,
    "csv": table,
}
"""By format: writes an export; all but `BOXES` keep the polygon."""
BOXES = ("voc", "imagefolder", "csv")
NO_ORDER = ("voc", "label_studio")
"""Formats that do not list their classes: they come in the order of the alphabet."""


def enclosing(polygon: list[float]) -> tuple[float, ...]:
    return around(pairs_of(polygon))


def predictions(folder: Path) -> tuple[Path, list[dict]]:
    """Boxes and masks in two pictures, as `ufo predict --json` writes them."""
    write_image(folder / "pictures" / "sub" / "0001.jpg")
    write_image(folder / "pictures" / "x y.png", 60, 40)
    ys, xs = np.mgrid[:48, :64]
    disc = ((xs - 30) / 14) ** 2 + ((ys - 22) / 9) ** 2 < 1
    rle = mask_rle(disc)
    x, y, w, h = coco_mask.toBbox(rle).tolist()
    head = {"image_id": 1, "file_name": "0001.jpg", "category_id": 1}
    records = [
        {**head, "category": "owl", "bbox": [3.5, 4.25, 20, 30.5], "score": 0.9},
        {**head, "category": "great tit", "bbox": [x, y, w, h], "segmentation": rle, "score": 0.7},
        {**head, "category": "owl", "bbox": [1, 1, 9, 9], "score": 0.1},
        {"image_id": "x y", "category": "owl", "bbox": [0, 0, 40, 60], "score": 0.5},
        {"image_id": "gone", "category": "owl", "bbox": [0, 0, 40, 60], "score": 0.5},
    ]
    return write_json(folder / "found.json", records), records


def read(tool: str, root: Path, **options):
    """What is imported from a folder in the format of that name."""
    return imported(format_named(tool), root, **options)


def edit(path: Path, change) -> None:
    """A JSON file with its content changed in place."""
    content = json.loads(path.read_text())
    change(content)
    write_json(path, content)
