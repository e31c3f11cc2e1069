"""Scenes of shapes and textures: what is on disk agrees with itself and with what the sentences say."""

from __future__ import annotations

import json
import pickle
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ufo.data import digits_scene, shapes_scene
from ufo.data.digits import generate
from ufo.data.digits_refs import things_of
from ufo.data.digits_text import resolve

SIZE = 112


def json_of(path: Path) -> Any:
    return json.loads(path.read_text())


def test_scenes_of_shapes(tmp_path):
    """Masks, maps, captions and expressions agree; no digit is among them."""
    out = generate(tmp_path / "shapes", train=40, val=4, variant="shapes", workers=1, progress=False)
    spec = digits_scene.VARIANTS["shapes"]
    content = json_of(out / "train" / "instances.json")
    assert [c["name"] for c in content["categories"]] == list(spec.classes)
    seen = defaultdict(list)
    for a in content["annotations"]:
        seen[a["image_id"]].append(a)
        semantic = np.asarray(Image.open(out / "train" / "semantic" / f"{a['image_id']:06d}.png"))
        assert (semantic == a["category_id"]).sum() >= a["area"]
    assert (out / "train" / "semantic_classes.txt").read_text().split() == [*spec.classes, "photo"]
    used = {a.get("texture", "") for a in content["annotations"]}
    assert used == {"", *shapes_scene.TEXTURES}
    captions = defaultdict(list)
    for record in json_of(out / "train" / "captions_karpathy.json"):
        captions[record["image_id"]].append(record["caption"])
    for number, things in seen.items():
        phrases = {
            " ".join([*filter(None, [a.get("texture")]), a["color"], spec.classes[a["category_id"] - 1]])
            for a in things
        }
        assert all(any(phrase in text for phrase in phrases) for text in captions[number])
    for ref in pickle.loads((out / "train" / "refcoco" / "refs(digits).p").read_bytes()):
        things = things_of(seen[ref["image_id"]], spec)
        for sentence in ref["sentences"]:
            (found,) = resolve(sentence["sent"], things, SIZE)
            assert seen[ref["image_id"]][found]["id"] == ref["ann_id"]


@pytest.mark.parametrize("name", shapes_scene.SHAPES)
def test_a_shape_has_its_size(name):
    """Turned or not, it is as large as asked, and its outline surrounds it."""
    fill, outline = shapes_scene.draw_shape(name, 40.0, 0.0, 1.0)
    rows, columns = (np.flatnonzero((fill > 0.5).any(axis)) for axis in (1, 0))
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == pytest.approx(
        40, abs=8
    )  # a star does not fill its circle
    assert not fill[[0, -1]].any() and not fill[:, [0, -1]].any()
    assert (outline >= fill).all() and (outline > fill).any()
