"""The same scenes as every label tool writes them: `ufo data import` makes the same training data of all.

By how much a box may differ is in `benchmarks/label_layouts`, tool by tool: the rounding of its numbers.
"""

from __future__ import annotations

import math
import random
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from pycocotools import mask as coco_mask

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))  # the exports of label tools

from label_files import LAYOUTS, Scene, Thing, coco

from ufo.cli import data_find
from ufo.types import Target

CLASSES = ["owl", "great tit", "Käuz & Co", "zebra <b>"]
IN_JSON = 0.0015
"""Pixels: an import writes the corner and the size of a box with three decimals."""
TURNED = {"exif": PIL.Image.Exif()}
TURNED["exif"][0x0112] = 6  # stored lying on its side


def outline(draw: random.Random, height: int, width: int) -> Thing:
    """A shape of twelve corners of its own, somewhere in the picture."""
    radii = [draw.uniform(34, 48) for _ in range(12)]
    x, y = draw.uniform(50, width - 50), draw.uniform(50, height - 50)
    turns = [k * math.tau / 12 for k in range(12)]
    points = [
        (round(x + r * math.cos(t), 4), round(y + r * math.sin(t), 4))
        for r, t in zip(radii, turns, strict=True)
    ]
    xs, ys = zip(*points, strict=True)
    polygon = [value for point in points for value in point]
    return Thing(draw.choice(CLASSES), (min(xs), min(ys), max(xs), max(ys)), polygon)


def rectangle(draw: random.Random, height: int, width: int) -> Thing:
    """A box, sometimes to the edge of its picture."""
    x1, y1 = draw.choice([0.0, draw.uniform(1, width / 2)]), draw.uniform(1, height / 2)
    x2 = x1 + draw.uniform(10, width / 2 - 1)
    return Thing(draw.choice(CLASSES), (x1, y1, x2, draw.choice([height, y1 + draw.uniform(10, 60)])))


def save(path: Path, size: tuple[int, int], **options: object) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[0] // 8, size[1] // 8, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).resize(size[::-1]).save(path, **options)


def scene(seed: int, name: str, split: str) -> Scene:
    """Boxes and outlines of several classes, with corners between the pixels; none in `empty`."""
    draw = random.Random(seed)
    size = (draw.randint(200, 300), draw.randint(200, 400))
    kinds = [] if "empty" in name else [outline, rectangle, outline, rectangle, rectangle]
    writer = partial(save, size=size)
    if "turned" in name:
        writer = partial(save, size=size[::-1], **TURNED)
    return Scene(name, size, [kind(draw, *size) for kind in kinds], writer, split)


NAMES = ["a.jpg", "Vögel am See (2).png", "turned.jpg", "empty.jpg"]
SCENES = [scene(k, name, "train") for k, name in enumerate(NAMES)]
SCENES += [scene(9 + k, f"other {name}", "val") for k, name in enumerate(NAMES)]


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_tool_gives_the_same_training_data(name, ufo_data, tmp_path):
    layout, folder = LAYOUTS[name], tmp_path / "data" / "photos"
    root = layout.write(tmp_path / "an export", SCENES, CLASSES)
    code, said = ufo_data("import", layout.format, root, "--out", folder)
    assert code == 0 and ("x picture" in said) == (name == "roboflow_csv"), said
    for task in ("detection", *(["instance_segmentation"] if layout.polygons else [])):
        key = "photos" if task == "detection" else f"photos_{task}"
        found = data_find.find(str(folder.parent / "source" / f"{key}.yaml"))
        for split in ("train", "val"):
            data = found.build(split)
            assert sorted(data.classes) == sorted(CLASSES)
            targets = {Path(t.image).name: t for t in map(data.target, range(len(data)))}
            # pictures without objects are validated on; Roboflow's csv does not name them
            kept = split == "val" and name != "roboflow_csv"
            scenes = [s for s in SCENES if s.split == split and (s.things or kept)]
            assert sorted(targets) == sorted(s.name for s in scenes)
            for seen in scenes:
                target = targets[seen.name]
                assert target.size == seen.size
                check_boxes(target, data.classes, seen, layout.rounding + IN_JSON)
                if task != "detection":
                    check_masks(target, seen)


def check_boxes(target: Target, classes: Sequence[str], seen: Scene, off: float) -> None:
    """Every object's class, and its box within some pixels."""
    pairs = zip(target.labels.tolist(), target.boxes.tolist(), strict=True)
    ours = sorted((classes[k], *box) for k, box in pairs)
    theirs = sorted((thing.label, *thing.box) for thing in seen.things)
    assert [label for label, *_ in ours] == [label for label, *_ in theirs]
    for (_, *mine), (_, *true) in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(true, abs=off, rel=0)


def check_masks(target: Target, seen: Scene) -> None:
    """Every outline's pixels."""
    masks = [coco_mask.decode(rle) > 0 for rle in target.masks]
    for thing in seen.things:
        if thing.polygon:
            (true,) = coco_mask.decode(coco_mask.frPyObjects([thing.polygon], *seen.size)).transpose(2, 0, 1)
            assert max((mask & true).sum() / (mask | true).sum() for mask in masks) >= 0.98


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_picture_that_no_label_file_names_is_counted(name, ufo_data, tmp_path):
    """Forgotten, or not yet labelled: it is not trained on, and the import says so."""
    layout = LAYOUTS[name]
    root = layout.write(tmp_path / "export", SCENES, CLASSES)
    (labelled,) = root.rglob("a.jpg")
    PIL.Image.open(labelled).save(labelled.with_name("forgotten.jpg"))
    code, said = ufo_data("import", layout.format, root)
    assert code == 0
    if "yolo" in name:  # there every picture of a split's folder counts
        assert "1x picture without a text file, taken as one without objects" in said
    else:
        number = 3 if name == "roboflow_csv" else 1  # it does not name pictures without objects
        assert f"{number}x picture beside labelled ones that no label file names, left out" in said


def test_the_commands_that_come_next_can_be_copied(ufo_data, tmp_path):
    """Also where a folder's name has blanks."""
    code, said = ufo_data("import", coco(tmp_path / "birds"), "--out", tmp_path / "my data" / "owls")
    assert code == 0
    show, train = (shlex.split(line) for line in said.split("next:\n")[1].splitlines())
    assert show == ["ufo", "data", "show", "my data/source/owls.yaml", "-n", "16"]
    assert train == ["ufo", "train", "my data/source/owls.yaml", "name=owls"]
