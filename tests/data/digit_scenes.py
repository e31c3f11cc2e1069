"""A few digit scenes on disk, and what their files say, for tests of the generator."""

import json
import pickle
from collections import defaultdict
from pathlib import Path

import pytest
from sharing import shared

from ufo.data.digits import CLASSES, generate

SIZE = 112
COUNTS = {"train": 120, "val": 40}


def drawn(factory: pytest.TempPathFactory) -> Path:
    """The folder of both splits, drawn once for all test files."""
    return shared(factory, "digit_scenes", lambda out: generate(out, **COUNTS, workers=1, progress=False))


def read(path):
    return json.loads(path.read_text())


def read_refs(folder):
    return pickle.loads((folder / "refcoco" / "refs(digits).p").read_bytes())


def objects_by_image(folder):
    """Image id -> list of (annotation id, name, colour, centre, area, height)."""
    found = defaultdict(list)
    for a in read(folder / "instances.json")["annotations"]:
        x, y, w, h = a["bbox"]
        center = (x + w / 2, y + h / 2)
        found[a["image_id"]].append(
            (a["id"], CLASSES[a["category_id"] - 1], a["color"], center, a["area"], h)
        )
    return found


def captions_by_image(folder):
    found = defaultdict(list)
    for record in read(folder / "captions_karpathy.json"):
        texts = record["caption"]
        found[record["image_id"]] += [texts] if isinstance(texts, str) else texts
        assert record["image"] == f"images/{record['image_id']:06d}.jpg"
    return found


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
