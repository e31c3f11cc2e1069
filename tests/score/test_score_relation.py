"""Predictions about other images than those that they name are warned of, right ones are not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from score_files import coco, detections, polygon, refcoco, refs, write

from ufo.cli.main import main


def warnings(tmp_path, found, truth, task, *words):
    out = tmp_path / "score.json"
    arguments = (write(tmp_path / "found.json", found), "--against", truth, "--task", task, "--json", out)
    assert main(["score", *map(str, (*arguments, "--resamples", 0, *words))]) == 0
    return [remark for remark in json.loads(out.read_text())["remarks"] if remark.startswith("warning")]


def renamed(found, content, shift):
    """Records that name the image so many places behind theirs."""
    ids = [image["id"] for image in content["images"]]
    return [{**r, "image_id": ids[(ids.index(r["image_id"]) + shift) % len(ids)]} for r in found]


def test_names_shifted_by_one_image_are_told(tmp_path):
    content = coco(images=30)
    truth, found = write(tmp_path / "truth.json", content), detections(content, jitter=0.03)
    assert warnings(tmp_path, found, truth, "detection") == []
    for shift, where in ((1, "previous"), (-1, "next")):
        (said,) = warnings(tmp_path, renamed(found, content, shift), truth, "detection")
        assert f"annotations of the {where} image far better" in said and "not shifted" in said


def test_boxes_that_fit_other_images_as_well_are_told(tmp_path):
    content = coco(images=30)
    truth, found = write(tmp_path / "truth.json", content), detections(content, jitter=0.03)
    (said,) = warnings(tmp_path, renamed(found, content, 7), truth, "detection")
    assert "fit annotations of other images as well" in said and "name their images" in said


def test_boxes_that_overlap_with_nothing_are_told(tmp_path):
    content = coco(images=4)
    for annotation in content["annotations"]:
        annotation["bbox"] = [0, 0, 40, 40]
    truth = write(tmp_path / "truth.json", content)
    found = [{**record, "bbox": [60, 60, 40, 40]} for record in detections(content)]
    (said,) = warnings(tmp_path, found, truth, "detection")
    assert "hardly any box overlaps" in said and "(mean IoU 0.00)" in said


@pytest.mark.parametrize("first", [0, 1])
def test_classes_that_are_counted_in_place_of_ids_are_told(tmp_path, first):
    content = coco(images=12)
    truth, found = write(tmp_path / "truth.json", content), detections(content, jitter=0.03)
    assert warnings(tmp_path, found, truth, "detection") == []
    ids = [category["id"] for category in content["categories"]]
    counted = [{**r, "category_id": ids.index(r["category_id"]) + first} for r in found]
    (said,) = warnings(tmp_path, counted, truth, "detection")
    assert f"counted from {first} in the order of the annotations" in said


@pytest.mark.parametrize("side", [224, 896])
def test_pixels_of_a_networks_image_are_told(tmp_path, side):
    content = coco(images=12)
    truth, found = write(tmp_path / "truth.json", content), detections(content, jitter=0.03)
    sizes = {i["id"]: (i["width"], i["height"]) for i in content["images"]}
    for record in found:
        record["bbox"] = [
            v * side / s for v, s in zip(record["bbox"], 2 * sizes[record["image_id"]], strict=True)
        ]
    (said,) = warnings(tmp_path, found, truth, "detection")
    assert f"--of resized:{side}x{side}" in said


@pytest.mark.parametrize("seed", range(4))
def test_a_bad_model_that_has_learned_something_is_not_suspected(tmp_path, seed):
    content = coco(images=40, seed=seed)
    truth = write(tmp_path / "truth.json", content)
    assert warnings(tmp_path, detections(content, seed, jitter=0.35), truth, "detection") == []


@pytest.mark.parametrize("seed", range(8))
def test_names_of_two_pictures_are_not_suspected_to_be_shifted(tmp_path, seed):
    """By chance boxes of a very bad model often fit the other picture better."""
    content = coco(images=2, seed=seed)
    truth, found = write(tmp_path / "truth.json", content), detections(content, seed + 100, jitter=1.0)
    assert "shifted" not in " ".join(warnings(tmp_path, found, truth, "detection"))


def test_a_model_that_found_nothing_is_not_suspected(tmp_path):
    truth = write(tmp_path / "truth.json", coco())
    assert warnings(tmp_path, [], truth, "detection") == []


@pytest.mark.parametrize("right", [True, False])
def test_masks_that_overlap_with_nothing_are_told(tmp_path, right):
    content = coco(images=4)
    for annotation in content["annotations"]:
        annotation["segmentation"] = polygon([0, 0, 40, 40])
    truth = write(tmp_path / "truth.json", content)
    drawn = polygon([0, 0, 40, 40] if right else [60, 60, 40, 40])
    found = [{**record, "segmentation": drawn} for record in detections(content)]
    said = warnings(tmp_path, found, truth, "instance_segmentation")
    assert len(said) == int(not right) and all("hardly any mask overlaps" in line for line in said)


def test_expressions_are_told_as_well(tmp_path):
    content = coco(images=60)
    folder = refcoco(tmp_path / "refcoco", content)
    boxes = {a["id"]: a["bbox"] for a in content["annotations"]}
    numbers = [s["sent_id"] for ref in refs(content) for s in ref["sentences"]]
    found = [boxes[ref["ann_id"]] for ref in refs(content) for _ in ref["sentences"]]
    words = ("grounding", "--split", "val", "--boxes", "xywh")
    for shift, expected in ((0, 0), (len(found) * 3 // 8, 1)):
        records = [
            {"sent_id": number, "bbox": box}
            for number, box in zip(numbers, np.roll(found, shift, 0).tolist(), strict=True)
        ]
        assert len(warnings(tmp_path, records, folder, *words)) == expected
