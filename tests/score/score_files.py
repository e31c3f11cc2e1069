"""Small annotation files in the layouts of COCO, RefCOCO and gRefCOCO, and predictions for them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from ufo.cli.main import main

CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 7, "name": "red dog"}]
SIZE = (120, 160)  # height, width


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(line) + "\n" for line in content))
    elif path.suffix == ".p":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        path.write_text(json.dumps(content))
    return path


def polygon(box: list[float]) -> list[list[float]]:
    x, y, w, h = box
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def coco(images: int = 5, objects: int = 6, seed: int = 0) -> dict[str, Any]:
    """Random boxes with decimals, one crowd in every other image; the last image has no object."""
    rng = np.random.default_rng(seed)
    records, annotations = [], []
    for image in range(images):
        records.append(
            {"id": 10 * image + 4, "file_name": f"val/{image:03d}.jpg", "height": SIZE[0], "width": SIZE[1]}
        )
        for k in range(objects if image < images - 1 else 0):
            w, h = rng.uniform(8, 110, 2).round(2).tolist()
            x, y = (rng.uniform(0, [SIZE[1] - w, SIZE[0] - h])).clip(0).round(2).tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 10 * image + 4,
                    "category_id": CATEGORIES[k % 2]["id"],
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": int(k == 5 and image % 2 == 0),
                    "segmentation": polygon([x, y, w, h]),
                }
            )
            if annotations[-1]["iscrowd"]:
                annotations[-1]["segmentation"] = uncompressed([x, y, w, h])
    return {"images": records, "annotations": annotations, "categories": CATEGORIES}


def uncompressed(box: list[float]) -> dict[str, Any]:
    """The pixels inside a box as run lengths."""
    mask = np.zeros(SIZE, dtype=np.uint8)
    x, y, w, h = map(int, box)
    mask[y : y + h, x : x + w] = 1
    flat = mask.flatten(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *changes, flat.size]).tolist()
    return {"size": list(SIZE), "counts": [0, *runs] if flat[0] else runs}


def detections(content: dict[str, Any], seed: int = 0, jitter: float = 0.15) -> list[dict[str, Any]]:
    """Two shifted boxes for each annotation, and wrong ones, each with a score of its own."""
    rng = np.random.default_rng(seed)
    found = []
    for annotation in content["annotations"]:
        for _ in range(2):
            x, y, w, h = annotation["bbox"]
            shift = rng.normal(0, jitter, 4) * [w, h, w, h]
            box = (np.array([x, y, w, h]) + shift).clip(1).round(2).tolist()
            wrong = rng.uniform() < 0.15
            category = CATEGORIES[int(rng.integers(2))]["id"] if wrong else annotation["category_id"]
            found.append({"image_id": annotation["image_id"], "category_id": category, "bbox": box})
    last = content["images"][-1]["id"]
    found.append({"image_id": last, "category_id": 3, "bbox": [5, 5, 40, 40]})
    scores = rng.permutation(len(found)) / len(found)
    return [{**record, "score": float(score)} for record, score in zip(found, scores, strict=True)]


def refs(content: dict[str, Any], sentences: int = 2) -> list[dict[str, Any]]:
    """A ref for every annotation that is no crowd; all are in the split val."""
    found = []
    for annotation in content["annotations"]:
        if annotation["iscrowd"]:
            continue
        number = len(found)
        found.append(
            {
                "ref_id": number,
                "ann_id": annotation["id"],
                "image_id": annotation["image_id"],
                "category_id": annotation["category_id"],
                "split": "val",
                "sentences": [
                    {"sent_id": 100 + sentences * number + k, "sent": f"thing {annotation['id']} way {k}"}
                    for k in range(sentences)
                ],
            }
        )
    return found


def refcoco(folder: Path, content: dict[str, Any]) -> Path:
    write(folder / "instances.json", content)
    write(folder / "refs(unc).p", refs(content))
    return folder


def grefcoco(folder: Path, content: dict[str, Any]) -> Path:
    """Of every three texts one means an object, one two objects of its image, one nothing."""
    found = refs(content, sentences=1)
    for number, ref in enumerate(found):
        mates = [
            a["id"] for a in content["annotations"] if a["image_id"] == ref["image_id"] and not a["iscrowd"]
        ]
        kind = number % 3
        ref["ann_id"] = [[ref["ann_id"]], mates[:2], [-1]][kind]
        ref["no_target"] = kind == 2
    write(folder / "instances.json", content)
    write(folder / "grefs(unc).json", found)
    return folder


def run(*words: object) -> int:
    """`ufo score` with these words: its exit code."""
    return main(["score", *map(str, words)])
