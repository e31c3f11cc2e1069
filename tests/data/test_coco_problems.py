"""Bad annotations of a COCO file: counted, named, left out of training, and what evaluation does."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from files import coco_content, write_image, write_json
from pycocotools import mask as coco_mask
from test_coco import make, square

from ufo.data.datasets import CocoDataset
from ufo.data.datasets.coco_file import FEDERATED, ODD_AREA
from ufo.data.datasets.coco_table import SAME_NAME, SHARED
from ufo.data.errors import DataError

RLE_OF_ANOTHER_SIZE = {"size": [24, 64], "counts": [24 * 64]}
SHORT_RLE = {"size": [48, 64], "counts": [100, 20]}
SHORT_COMPRESSED = {
    "size": [48, 64],
    "counts": coco_mask.encode(np.ones((4, 4), np.uint8, order="F"))["counts"].decode(),
}
BAD = {
    "annotation marked as ignored": [{"ignore": 1}],
    "box outside its image": [{"bbox": [64, 8, 20, 16]}, {"bbox": [4, -30, 20, 30]}],
    "box smaller than a pixel": [
        {"bbox": [4, 8, 0.5, 16]},
        {"bbox": [4, 8, 9, 0.9]},
        {"bbox": [4, 8, 9, 0]},
    ],
    "box of negative size (corners in another order?)": [
        {"bbox": [24, 8, -20, 16]},
        {"bbox": [24, 24, -20, -16]},
    ],
    "category that is not in the file": [{"category_id": 8}, {"category_id": None}],
    "annotation of an image that is not in the file": [{"image_id": 3}, {"image_id": [10]}],
    "annotation without a box": [
        {"bbox": None},
        {"bbox": [1, 2, 3]},
        {"bbox": [float("nan"), 1, 5, 5]},
        {"bbox": "abcd"},
    ],
    "polygon with fewer than three points": [
        {"segmentation": [[4, 8, 24, 24]]},
        {"segmentation": [[4, 8], [4, 8, 24, 24], [1, 2, 3, 4, 5]]},
    ],
    "RLE of another size than its image": [{"segmentation": RLE_OF_ANOTHER_SIZE}],
    "RLE whose runs do not add up to its image": [
        {"segmentation": SHORT_RLE},
        {"segmentation": SHORT_COMPRESSED},
        {"segmentation": {"size": [48, 64], "counts": [-1, 48 * 64 + 1]}},
    ],
    "RLE whose counts can't be read": [
        {"segmentation": {"size": [48, 64], "counts": c}} for c in ("", "\x01", "oooooooooooooo")
    ],
    "polygon far outside its image": [
        {"segmentation": [[1e12, 0, 5, 5, 9, 9]]},
        {"segmentation": [[float("nan"), 0, 5, 5, 9, 9]]},
    ],
    "no segmentation": [{"segmentation": []}, {"segmentation": None}],
    "unreadable segmentation": [
        {"segmentation": "polygon"},
        {"segmentation": [["a", "b", "c", "d", "e", "f"]]},
        {"segmentation": {"size": [48, 64]}},
        {"segmentation": [1, 2, 3, 4, 5, 6]},
    ],
}
KINDS = [(kind, mark) for kind, marks in BAD.items() for mark in marks]


@pytest.mark.parametrize(("kind", "mark"), KINDS)
def test_bad_annotation_is_counted_and_left_out_of_training(tmp_path, kind, mark):
    good = square(30, 30, 9)
    data = make(tmp_path, good, mark, square(2, 30, 7), train=True)
    assert data.problems.counts == {kind: 1}
    assert data[0]["boxes"][:, 0].tolist() == [30, 2]
    assert data[0]["masks"].flatten(1).sum(1).tolist() == [81, 49]


NEVER = {k for k in BAD if k.startswith(("category", "annotation of", "annotation without"))}


@pytest.mark.parametrize(("kind", "mark"), KINDS)
def test_bad_annotation_at_evaluation(tmp_path, kind, mark):
    """COCOeval counts whatever has a box; without a usable mask it is ignored as a crowd is."""
    data = make(tmp_path, square(30, 30, 9), mark)
    target = data.target(0)
    assert data.problems.counts == {kind: 1}
    assert len(target.boxes) == (1 if kind in NEVER else 2)
    bad_mask = any(word in kind for word in ("RLE", "polygon", "segmentation"))
    assert target.iscrowd.tolist()[1:] == ([] if kind in NEVER else [bad_mask])
    assert [coco_mask.decode(rle).shape for rle in target.masks] == [(48, 64)] * len(target.boxes)
    if bad_mask:
        assert coco_mask.area(target.masks[1]) == 0
    boxes_only = make(tmp_path, square(30, 30, 9), mark, masks=False).target(0)
    assert not boxes_only.iscrowd.any()


def test_part_of_a_bad_polygon_leaves_the_others_alone(tmp_path):
    """Parts with too few points go; what was stored before an unusable one stays what it was."""
    cases = [
        square(30, 30, 9),
        {"segmentation": [[4, 8, 24, 24], [4, 8, 24, 8, 24, 24, 4, 24]]},
        {"segmentation": SHORT_RLE},
        {"segmentation": [[1, 1, 9, 1, 9, 9], [1e12, 0, 5, 5, 9, 9]]},
        square(2, 30, 7),
    ]
    data = make(tmp_path, *cases, train=True)
    assert data[0]["masks"].flatten(1).sum(1).tolist() == [81, 320, 49]
    assert data.problems.counts == {
        "RLE whose runs do not add up to its image": 1,
        "polygon far outside its image": 1,
        "part of a polygon without three whole points": 1,
    }


def test_empty_mask_is_dropped_from_training_and_counted(tmp_path):
    nothing = {"segmentation": {"size": [48, 64], "counts": [48 * 64]}}
    data = make(tmp_path, nothing, square(30, 30, 9), train=True)
    assert data[0]["boxes"].tolist() == [[30, 30, 39, 39]]
    assert data.problems.counts == {"empty mask": 1}


def test_boxes_are_clipped_for_training_only(tmp_path):
    over = {"bbox": [-5, 40, 30, 20]}
    assert make(tmp_path, over, train=True)[0]["boxes"].tolist() == [[0, 40, 25, 48]]
    assert make(tmp_path, over).target(0).boxes.tolist() == [[-5, 40, 25, 60]]


def test_ids_used_twice(tmp_path):
    content = coco_content({}, {"id": 100})
    content["images"].append(content["images"][0])
    write_image(tmp_path / "0.jpg")
    data = CocoDataset(tmp_path, write_json(tmp_path / "coco.json", content))
    assert len(data) == 1 and data.target(0).image.endswith("0.jpg")
    assert len(data.target(0).boxes) == 2
    assert data.problems.left_out == {"image listed twice": 1}
    assert data.problems.doubtful == {"annotation id used twice": 1}
    content["images"][1] = {**content["images"][0], "file_name": "other.jpg"}
    with pytest.raises(DataError, match=r"images 0\.jpg and other\.jpg have the same id 10"):
        CocoDataset(tmp_path, write_json(tmp_path / "coco.json", content))
    del content["images"][1]
    content["categories"][1]["id"] = 90
    with pytest.raises(DataError, match=r"same id 90, \w+ and \w+; number them anew"):
        CocoDataset(tmp_path, write_json(tmp_path / "coco.json", content))


def test_each_kind_is_logged_once_with_its_count_and_first_place(tmp_path, caplog):
    thin = {"bbox": [4, 8, 0.5, 16]}
    with caplog.at_level(logging.WARNING):
        make(tmp_path, {}, thin, thin, thin, train=True).serve(frozenset({"boxes"}))
    (line,) = [r.getMessage() for r in caplog.records if "smaller" in r.getMessage()]
    assert "3x box smaller than a pixel, left out (first: annotation 101 of image 10)" in line


# --- bad files


@pytest.mark.parametrize("train", [True, False])
def test_two_images_with_one_file(tmp_path, train):
    """Boxes of one picture land on another: counted, though each of the two may be the wrong one."""
    content = coco_content({}, {"image_id": 11}, {"image_id": 12}, images=3)
    content["images"][2]["file_name"] = "0.jpg"
    for name in ("0.jpg", "1.jpg"):
        write_image(tmp_path / "images" / name)
    data = CocoDataset(tmp_path / "images", write_json(tmp_path / "coco.json", content), train=train)
    assert data.problems.doubtful == {SHARED: 1} and len(data) == 3
    assert data.problems.first[SHARED] == "0.jpg: images 10 and 12"


@pytest.mark.parametrize("area", [None, 0, -320, "320", float("nan")])
def test_without_a_usable_area_the_mask_says_how_large_an_object_is(tmp_path, area):
    """COCO's AP leaves out what has a negative area, and takes one of 0 for a small object."""
    triangle = {"area": area, "segmentation": [[4, 8, 24, 8, 24, 24]]}
    data = make(
        tmp_path, triangle, square(30, 30, 9) | {"area": area, "segmentation": None}, square(2, 30, 7)
    )
    mask = coco_mask.area(data.target(0).masks[0])
    assert data.target(0).area.tolist() == [mask, 81, 49] and mask < 320
    assert data.problems.doubtful[ODD_AREA] == (0 if area is None else 2)


def test_results_of_two_categories_with_one_name_have_the_id_of_the_first(tmp_path):
    content = coco_content(square(30, 30, 9))
    content["categories"].append({"id": 1, "name": "zebra"})
    write_image(tmp_path / "images" / "0.jpg")
    path = write_json(tmp_path / "coco.json", content)
    data = CocoDataset(tmp_path / "images", path, classes=["zebra", "apple", "cup"])
    assert data.category_ids == (90, 7, 13)
    assert data.problems.doubtful == {SAME_NAME: 1}


@pytest.mark.parametrize("train", [True, False])
def test_files_annotated_for_some_classes_only_are_said(tmp_path, train):
    """LVIS: a class that nobody looked for in an image is not absent there, and AP counts it as a mistake."""
    content = coco_content(square(30, 30, 9), images=3)
    content["images"][0]["neg_category_ids"] = []
    content["images"][1]["not_exhaustive_category_ids"] = [7]
    for k in range(3):
        write_image(tmp_path / "images" / f"{k}.jpg")
    data = CocoDataset(tmp_path / "images", write_json(tmp_path / "coco.json", content), train=train)
    assert data.problems.doubtful[FEDERATED] == 2


@pytest.mark.parametrize("section", ["images", "categories", "annotations"])
def test_null_in_a_list__is_no_empty_list(tmp_path, section):
    content = coco_content()
    content[section] = [None, *content[section]]
    write_image(tmp_path / "images" / "a.png")
    with pytest.raises(
        DataError, match=rf"x\.json: an entry of `{section}` is not a JSON object .*\(null\); leave it out"
    ):
        CocoDataset(tmp_path / "images", write_json(tmp_path / "x.json", content), train=True)
