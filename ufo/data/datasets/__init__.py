"""Data sets: files on disk in a standard format -> `Sample` and `Target`. One file per format."""

from ufo.data.datasets.base import ImageDataset
from ufo.data.datasets.captions import CaptionDataset, clean_text
from ufo.data.datasets.class_names import ClassNamesDataset
from ufo.data.datasets.coco import CocoDataset
from ufo.data.datasets.jsonl import JsonlDataset
from ufo.data.datasets.openimages import OpenImagesDataset
from ufo.data.datasets.refcoco import RefCocoDataset
from ufo.data.datasets.semantic import SemanticDataset
from ufo.data.datasets.voc import VocDataset
from ufo.data.problems import Problems

__all__ = [
    "CaptionDataset",
    "ClassNamesDataset",
    "CocoDataset",
    "ImageDataset",
    "JsonlDataset",
    "OpenImagesDataset",
    "Problems",
    "RefCocoDataset",
    "SemanticDataset",
    "VocDataset",
    "clean_text",
]
