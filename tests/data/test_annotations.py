"""What a COCO file of a label tool may hold, and what each task makes of it: nothing is lost in silence."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from files import coco_content, write_image, write_json

from ufo.data.augmentations import CopyPaste
from ufo.data.datasets import CocoDataset
from ufo.data.errors import DataError
from ufo.data.source import Source

WHOLE = {"size": [48, 64], "counts": [0, 48 * 64]}


def corners(box: list[float]) -> list[list[float]]:
    x, y, w, h = box
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def write(folder: Path, *annotations: dict[str, Any], **options: Any) -> CocoDataset:
    for k in range(options.pop("images", 1)):
        write_image(folder / f"{k}.jpg")
    content = coco_content(*annotations, images=len(list(folder.glob("*.jpg"))))
    return CocoDataset(folder, write_json(folder / "coco.json", content), **options)


def source(folder: Path, task: str, **options: Any) -> Source:
    path = folder / "coco.json"
    factories = {s: lambda s=s: CocoDataset(folder, path, train=s == "train") for s in ("train", "val")}
    return Source("own", task, **factories, **options)


# --- boxes count where boxes are the task


@pytest.mark.parametrize(
    "bad", [[], None, [4, 8, 24, 8, 24, 24], [[4, 8, 9]], {"size": [1, 1], "counts": ""}]
)
def test_detection_needs_boxes_only(tmp_path, bad):
    write(tmp_path, {}, {"segmentation": bad}, {"bbox": [30, 30, 9, 9], "segmentation": bad})
    detection, masks = source(tmp_path, "detection"), source(tmp_path, "instance_segmentation")
    assert len(detection.data("train")[0]["boxes"]) == 3
    assert not detection.data("val").target(0).iscrowd.any()
    assert not detection.data("train").problems.left_out
    assert detection.data("train").problems.doubtful.total() == (2 if bad else 0)
    assert len(masks.data("train")[0]["boxes"]) == 1
    assert masks.data("val").target(0).iscrowd.tolist() == [False, True, True]
    assert masks.data("train").problems.left_out.total() == 2


def test_what_has_no_mask_is_pasted_as_its_box(tmp_path):
    torch.manual_seed(0)  # a paste may cover what was there
    write(tmp_path, {"bbox": [4, 8, 20, 16], "segmentation": []}, {})
    paste = CopyPaste(lambda sample: sample)
    data = source(tmp_path, "detection", train_transform=paste).data("train")
    sample = data[0]
    assert sample["masks"].flatten(1).sum(1).tolist() == [320, 320]
    assert len(paste(sample)["boxes"]) >= 2
    assert "masks" not in source(tmp_path, "detection").data("train")[0]


# --- crowd


@pytest.mark.parametrize("mark", [1, True, "1", 1.0])
def test_crowd_is_counted_or_an_object(tmp_path, mark):
    """CVAT marks each brush mask as crowd."""
    brush = {"iscrowd": mark, "segmentation": WHOLE}
    data = write(tmp_path, {}, brush, train=True)
    assert len(data[0]["boxes"]) == 1 and data.label_sets()[1].tolist() == [1]
    assert data.problems.left_out == {"marked as crowd": 1}
    assert data.problems.first == {"marked as crowd": "annotation 101 of image 10"}
    assert write(tmp_path, {}, brush).target(0).iscrowd.tolist() == [False, True]
    objects = write(tmp_path, {}, brush, train=True, crowd="objects")
    assert len(objects[0]["boxes"]) == len(objects[0]["masks"]) == 2 and not objects.problems.counts
    assert not write(tmp_path, {}, brush, crowd="objects").target(0).iscrowd.any()


@pytest.mark.parametrize("mark", [0, False, None, "0", "false", "", "0.0"])
def test_no_crowd_in_all_spellings(tmp_path, mark):
    data = write(tmp_path, {"iscrowd": mark, "ignore": mark}, train=True)
    assert len(data[0]["boxes"]) == 1 and not data.problems.counts


def test_unknown_treatment_of_crowd_is_refused(tmp_path):
    with pytest.raises(DataError, match="`crowd` is one of ignore, objects, not 'drop'"):
        write(tmp_path, {}, crowd="drop")


# --- areas, borders, sizes, numbers


@pytest.mark.parametrize("area", [0, -1, None, "large", float("nan"), 10**400])
def test_area_does_not_matter_to_a_good_box(tmp_path, area):
    data = write(tmp_path, {"area": area}, train=True)
    assert len(data[0]["boxes"]) == 1 and not data.problems.counts


def test_boxes_that_leave_their_image_are_used_and_counted(tmp_path):
    corner = {"bbox": [30, 20, 60, 45]}  # x1, y1, x2, y2
    for train in (True, False):
        data = write(tmp_path, corner, {"bbox": [44, 32, 20.9, 16.9]}, train=train)
        assert data.problems.doubtful == {"box that leaves its image by more than a pixel": 1}
        assert not data.problems.left_out and len(data.target(0).boxes) == 2


@pytest.mark.parametrize("number", ["9" * 400, "-" + "9" * 400, "9" * 5000, "1e308", "NaN", "Infinity"])
def test_numbers_beyond_all_bounds_are_no_box(tmp_path, number):
    write_image(tmp_path / "0.jpg")
    content = coco_content({}, {"bbox": [1, 2, "HERE", 4]}, {"area": "HERE"})
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(content).replace('"HERE"', number))
    data = CocoDataset(tmp_path, path, train=True)
    assert data.problems.left_out == {"annotation without a box": 1}
    assert data[0]["boxes"].tolist() == [[4, 8, 24, 24]] * 2


def test_more_objects_than_a_byte_counts(tmp_path):
    boxes = [[x, y, 2, 2] for x in range(0, 62, 3) for y in range(0, 48, 3)]
    marks = [{"bbox": box, "segmentation": corners(box)} for box in boxes]
    data = write(tmp_path, *marks, train=True)
    assert len(boxes) > 300
    assert data[0]["masks"].flatten(1).sum(1).tolist() == [4] * len(boxes)


def test_small_images_and_those_without_objects_are_counted(tmp_path):
    data = write(tmp_path, {}, {"image_id": 11}, images=4, train=True, min_size=40)
    assert len(data) == 2 and data.problems.left_out == {"image without objects": 2}
    data = write(tmp_path, {}, {"image_id": 11}, images=4, train=True, min_size=49)
    assert len(data) == 0
    assert data.problems.left_out == {"image without objects": 2, "image with a side below 49 pixels": 2}
    assert len(write(tmp_path, {}, images=4)) == 4


def test_an_image_said_to_be_of_gigabytes(tmp_path):
    write_image(tmp_path / "0.jpg"), write_image(tmp_path / "1.jpg")
    content = coco_content({}, {"image_id": 11}, images=2)
    content["images"][1].update(height=10**9, width=10**9)
    path = write_json(tmp_path / "coco.json", content)
    data = CocoDataset(tmp_path, path, train=True)
    assert len(data) == 1 and data.problems.left_out == {"image without a usable size": 1}
    with pytest.raises(DataError, match=r"image 11 is said to have 1000000000x1000000000 pixels"):
        CocoDataset(tmp_path, path)


def test_numbers_of_tables_are_whole_numbers(tmp_path):
    """pandas writes 7.0 for 7 where a column has a gap."""
    write_image(tmp_path / "0.jpg")
    content = coco_content({"image_id": 10.0, "category_id": 7.0})
    content["images"][0].update(id=10.0, height=48.0, width=64.0)
    content["categories"][1]["id"] = 7.0
    data = CocoDataset(tmp_path, write_json(tmp_path / "coco.json", content), train=True)
    assert data[0]["labels"].tolist() == [1] and not data.problems.counts


@pytest.mark.heavy
def test_many_categories_take_seconds(tmp_path):
    write_image(tmp_path / "0.jpg")
    content = coco_content({})
    content["categories"] += [{"id": 1000 + k, "name": f"class {k}"} for k in range(200_000)]
    path, began = write_json(tmp_path / "coco.json", content), time.monotonic()
    data = CocoDataset(tmp_path, path, train=True)
    assert len(data.classes) == 200_003 and torch.equal(data[0]["labels"], torch.tensor([1]))
    with pytest.raises(DataError) as error:
        CocoDataset(tmp_path, path, classes=["unicorn"])
    assert len(str(error.value)) < 2000
    assert time.monotonic() - began < 20
