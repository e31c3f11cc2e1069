"""The seven official sources in miniature: four noise images each, laid out as conf/dataset expects."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

SIZES = ((48, 64), (64, 48), (48, 64), (64, 64))  # (height, width)
CATEGORIES = ((3, "cat"), (7, "red dog"), (90, "owl"))  # ids with gaps, as COCO's
REFERRING = {"refcoco": "refs(unc).p", "refcoco+": "refs(unc).p", "refcocog": "refs(umd).p"}


def write_official(data: Path) -> Path:
    """Everything below `paths.data` that mixture=five_task reads."""
    for split, size in (("train", 4), ("val", 3)):
        _coco(data / "coco", split, size)
        _ade(data / "ade" / "ADEChallengeData2016", {"train": "training", "val": "validation"}[split], size)
    _captions(data / "coco_2014")
    for name, refs in REFERRING.items():
        _referring(data / "coco_2014" / name, refs)
    _reasoning(data / "reason_seg" / "ReasonSeg" / "test")
    return data


def _image(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (*SIZES[number], 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(path)


def _json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def _instances(names: list[str]) -> dict[str, Any]:
    """Three objects per image, two polygons and a crowd."""
    images, annotations = [], []
    for i, name in enumerate(names):
        height, width = SIZES[i]
        images.append({"id": i + 1, "file_name": name, "height": height, "width": width})
        for k, (x, y, w, h) in enumerate(((4, 4, 20, 24), (26, 10, 20, 30), (10, 30, 12, 12))):
            polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
            mask = [polygon] if k < 2 else {"size": [height, width], "counts": [height * width]}
            annotations.append(
                {
                    "id": 10 * (i + 1) + k,
                    "image_id": i + 1,
                    "category_id": CATEGORIES[k][0],
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": int(k == 2),
                    "segmentation": mask,
                }
            )
    categories = [{"id": i, "name": name} for i, name in CATEGORIES]
    return {"images": images, "annotations": annotations, "categories": categories}


def _coco(folder: Path, split: str, size: int) -> None:
    names = [f"{i:012d}.jpg" for i in range(size)]
    for i, name in enumerate(names):
        _image(folder / f"{split}2017" / name, i)
    _json(folder / "annotations" / f"instances_{split}2017.json", _instances(names))


def _ade(folder: Path, split: str, size: int) -> None:
    for i in range(size):
        name = f"ADE_{split}_{i:08d}"
        _image(folder / "images" / split / f"{name}.jpg", i)
        labels = np.zeros(SIZES[i], dtype=np.uint8)  # 0: other
        labels[:20], labels[20:40, :30] = 1 + i, 150
        path = folder / "annotations" / split / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(labels).save(path)


def _captions(folder: Path) -> None:
    train = [f"train2014/COCO_train2014_{i:012d}.jpg" for i in range(4)]
    val = [f"val2014/COCO_val2014_{i:012d}.jpg" for i in range(3)]
    for i, name in enumerate([*train, *val]):
        _image(folder / name, i % 4)
    texts = ["A cat left of a red dog.", "An owl's nest", "Two cats"]
    pairs = [
        {"image": name, "caption": t, "image_id": f"coco_{i}"} for i, name in enumerate(train) for t in texts
    ]
    _json(folder / "annotations" / "coco_karpathy_train.json", pairs)
    _json(folder / "annotations" / "coco_karpathy_test.json", [{"image": n, "caption": texts} for n in val])
    truth = [{"image_id": i, "id": 10 * i + k, "caption": t} for i in range(3) for k, t in enumerate(texts)]
    images = [{"id": i} for i in range(3)]
    _json(folder / "annotations" / "coco_karpathy_test_gt.json", {"images": images, "annotations": truth})


def _referring(folder: Path, name: str) -> None:
    """Two sentences for the first object of each image; the last image is for validation."""
    names = [f"COCO_train2014_{i:012d}.jpg" for i in range(4)]
    _json(folder / "instances.json", _instances(names))
    refs = [
        {
            "ref_id": i,
            "ann_id": 10 * (i + 1),
            "image_id": i + 1,
            "category_id": CATEGORIES[0][0],
            "split": "val" if i == 3 else "train",
            "file_name": names[i],
            "sent_ids": [2 * i, 2 * i + 1],
            "sentences": [
                {"sent_id": 2 * i + k, "sent": text, "raw": text, "tokens": text.split()}
                for k, text in enumerate(("the left cat", "cat"))
            ],
        }
        for i in range(4)
    ]
    (folder / name).write_bytes(pickle.dumps(refs, protocol=2))


def _reasoning(folder: Path) -> None:
    """A phrase and a sentence about a square, in one image each."""
    for i, (text, sentence) in enumerate((("the left cat", False), ("What could scratch here?", True))):
        _image(folder / f"{i}.jpg", i)
        shapes = [{"label": "target", "points": [[4, 4], [20, 4], [20, 24], [4, 24]]}]
        _json(folder / f"{i}.json", {"shapes": shapes, "text": [text], "is_sentence": sentence})
