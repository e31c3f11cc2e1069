"""Exports of label tools: the same scenes in the layout and with the rounding of each tool.

The benchmarks train on them (`own_photos.py --format`), and the tests import them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from label_layouts import by_picture, by_project
from label_layouts.scenes import Scene, Thing

__all__ = ["LAYOUTS", "Layout", "Scene", "Thing", "by_picture", "by_project"]


@dataclass(frozen=True)
class Layout:
    """One tool's export.

    Args:
        format: what `ufo data import` calls it.
        write: writes scenes with some classes into a folder, and returns it.
        rounding: pixels by which a side of a box may differ from the scene's.
        polygons: whether it has outlines, beside boxes.
        alike: whether pictures of two splits may have the same name.
    """

    format: str
    write: Callable[[Path, Sequence[Scene], Sequence[str]], Path]
    rounding: float
    polygons: bool = True
    alike: bool = True


HALF = 0.5  # whole pixels
LAYOUTS = {
    "yolo": Layout("yolo", by_picture.yolo, 1e-3),  # six decimals of a side of up to 1,300 pixels
    "voc": Layout("voc", by_picture.voc, HALF, polygons=False, alike=False),
    "cvat_voc": Layout("voc", by_picture.cvat_voc, 0.005, polygons=False, alike=False),
    "labelme": Layout("labelme", by_picture.labelme, 0),
    "cvat": Layout("cvat", by_project.cvat, 0.005),
    "cvat_coco": Layout("cvat", by_project.coco, 0.01),  # the corner and the size are rounded
    "label_studio": Layout("label_studio", by_project.label_studio, 0),
    "roboflow": Layout("roboflow", by_project.roboflow, 0.01),
    "roboflow_yolo": Layout("roboflow", by_picture.roboflow_yolo, 1e-3),
    "roboflow_voc": Layout("roboflow", by_picture.roboflow_voc, HALF, polygons=False),
    "roboflow_csv": Layout("roboflow", by_project.roboflow_csv, HALF, polygons=False),
    "supervisely": Layout("supervisely", by_picture.supervisely, HALF),
    "via": Layout("via", by_project.via, 2 * HALF),  # the corner and the size are rounded
    "via_csv": Layout("via", by_project.via_csv, 2 * HALF),
    "imagefolder": Layout("imagefolder", by_project.imagefolder, 0, polygons=False),
    "csv": Layout("csv", by_project.table, HALF, polygons=False, alike=False),
}
