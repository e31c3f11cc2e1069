"""Small files in the exact formats of the official data sets, for the tests of their loaders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

SHARED = Path(__file__).parents[3] / "shared" / "data"
"""Real annotated images that are not part of the repository."""


def shared(*parts: str) -> Path:
    """A file or folder of the real samples; the test is skipped if it is not there."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"no sample data at {path}")
    return path


def write_image(path: Path, height: int = 48, width: int = 64, **options: Any) -> Path:
    """A noise image, so that nothing compresses to a few bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(path, **options)
    return path


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def coco_content(*annotations: dict[str, Any], images: int = 1) -> dict[str, Any]:
    """A COCO file of 48 x 64 images, ids from 10, with annotations, ids from 100, as changed."""
    return {
        "images": [{"id": 10 + k, "file_name": f"{k}.jpg", "height": 48, "width": 64} for k in range(images)],
        "annotations": [
            {
                "id": 100 + k,
                "image_id": 10,
                "category_id": 7,
                "bbox": [4, 8, 20, 16],
                "area": 320,
                "iscrowd": 0,
                "segmentation": [[4, 8, 24, 8, 24, 24, 4, 24]],
                **changes,
            }
            for k, changes in enumerate(annotations)
        ],
        "categories": [
            {"id": 90, "name": "zebra"},
            {"id": 7, "name": "apple"},
            {"id": 13, "name": "cup"},
        ],
    }
