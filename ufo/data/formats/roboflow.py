"""Roboflow's downloads: a folder per split (`train`, `valid`, `test`) in COCO, YOLO, VOC, CSV, or class maps.

Which of them it is shows in the files; the reader of that format does the rest.
"""

from __future__ import annotations

from ufo.data.errors import DataError
from ufo.data.formats import coco, csv, masks, voc, yolo
from ufo.data.labels.reading import Source, peek
from ufo.data.labels.record import Labels

ABOUT = "Roboflow downloads: COCO, YOLO, VOC, CSV or semantic masks per split"
ORDER = 5
KINDS = {"COCO": coco, "class maps": masks, "YOLO": yolo, "VOC": voc, "CSV": csv}


def recognise(source: Source) -> str:
    sign = source.first("_annotations.coco.json", "readme.roboflow.txt", "_annotations.csv", "_classes.csv")
    if sign is None:
        sign = source.first("data.yaml")
        if sign is None or "roboflow:" not in peek(sign):
            return ""
    return source.place(sign) if any(kind.recognise(source) for kind in KINDS.values()) else ""


def read(source: Source) -> Labels:
    """The labels of the first kind that is there."""
    for name, kind in KINDS.items():
        if kind.recognise(source):
            labels = kind.read(source)
            labels.notes.append(f"a Roboflow download in the form of {name}")
            return labels
    raise DataError(f"{source.path} has none of Roboflow's forms: {', '.join(KINDS)}.")
