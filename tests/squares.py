"""Data in COCO format: pictures of one bright square each, the smallest that a small model can learn, and the
yaml of a source.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image


def write_squares(images: Path, annotations: Path, count: int) -> None:
    """Write `count` pictures of 128 x 96 pixels to the new folder `images`, and their boxes."""
    images.mkdir(parents=True)
    random = np.random.default_rng(0)
    records, boxes = [], []
    for i in range(1, count + 1):
        picture = random.integers(0, 60, (96, 128, 3), dtype=np.uint8)
        x, y = int(random.integers(0, 80)), int(random.integers(0, 56))
        picture[y : y + 32, x : x + 40] = (240, 200, 20)
        Image.fromarray(picture).save(images / f"{i}.png")
        records.append({"id": i, "file_name": f"{i}.png", "width": 128, "height": 96})
        box = {"bbox": [x, y, 40, 32], "area": 1280, "iscrowd": 0}
        boxes.append({"id": i, "image_id": i, "category_id": 1, **box})
    categories = [{"id": 1, "name": "seven"}]  # a word that every vocabulary has
    content = {"images": records, "annotations": boxes, "categories": categories}
    annotations.write_text(json.dumps(content))


def coco_source(name: str, folder: Path | str, annotations: str, transform: str = "plain") -> str:
    """The yaml of a source: images and a COCO file in a folder, for detection."""
    return f"""# @package sources.{name}
defaults: [/transform@transform: {transform}]
name: {name}/detection
task: detection
batch_size: 2
dataset:
  train:
    _target_: ufo.data.datasets.CocoDataset
    _partial_: true
    images: {folder}/images
    annotations: {folder}/{annotations}
    train: true
"""
