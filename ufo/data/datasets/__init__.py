"""Data sets: files on disk in a standard format -> `Sample` and `Target`. One file per format."""

from ufo.data.datasets.base import ImageDataset, Problems
from ufo.data.datasets.captions import CaptionDataset, clean_text
from ufo.data.datasets.coco import CocoDataset
from ufo.data.datasets.refcoco import RefCocoDataset
from ufo.data.datasets.semantic import SemanticDataset

__all__ = [
    "CaptionDataset",
    "CocoDataset",
    "ImageDataset",
    "Problems",
    "RefCocoDataset",
    "SemanticDataset",
    "clean_text",
]
