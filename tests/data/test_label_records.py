"""Records of exports that are in another form, stand there twice, or hold what no file can hold."""

from __future__ import annotations

import json
import os
from pathlib import Path

from files import write_image, write_json
from label_files import (
    CLASSES,
    TRUTH,
    boxes,
    coco_content,
    edit,
    imagefolder,
    labelme,
    pictures,
    read,
    true_boxes,
    via,
    yolo,
)


def test_records_in_another_form_are_counted(tmp_path):
    root = imagefolder(tmp_path / "hf")
    path = root / "train" / "metadata.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0]["objects"] = "owl at 3, 4"
    path.write_text("\n".join(map(json.dumps, [*lines, [1], 7])))
    labels = read("imagefolder", root)
    assert labels.problems.left_out == {
        "objects that are neither a table nor a list": 1,
        "line that is no record": 2,
    }
    lost = lines[0]["file_name"]
    assert lost not in [picture.path.name for picture in labels.pictures], "it is not known to be empty"
    lines[0]["objects"] = {"bbox": [[1, 2, 5, 6]], "categories": []}
    path.write_text("\n".join(map(json.dumps, lines)))
    labels = read("imagefolder", root)
    assert labels.problems.left_out == {"record whose boxes and categories do not match": 1}
    assert lost not in [picture.path.name for picture in labels.pictures]
    pictures(tmp_path / "said")
    texts = [{"file_name": n, "text": t} for n, t in zip(TRUTH, [None, {"a": 1}, "a bird"], strict=True)]
    (tmp_path / "said" / "metadata.jsonl").write_text("\n".join(map(json.dumps, texts)))
    labels = read("imagefolder", tmp_path / "said")
    assert labels.problems.left_out == {"text that is null or something else than text": 2}
    root = via(tmp_path / "via")
    edit(root / "via_project.json", lambda c: c["_via_img_metadata"].update(x={"filename": 7}))
    assert read("via", root).problems.left_out == {"entry without a file name": 1}


def test_a_region_is_named_with_its_picture(tmp_path):
    root = via(tmp_path / "via")
    content = json.loads((root / "via_project.json").read_text())
    entry = next(e for e in content["_via_img_metadata"].values() if e["regions"])
    entry["regions"][0]["shape_attributes"] = {
        "name": "polygon",
        "all_points_x": [1, 9],
        "all_points_y": [1, 9],
    }
    write_json(root / "via_project.json", content)
    where = read("via", root).problems.first["empty polygon or mask"]
    assert where.endswith(f"via_project.json: {entry['filename']}, region 1")


def test_turned_boxes_as_polygons_are_said(tmp_path):
    root = yolo(tmp_path)
    for path in root.rglob("labels/**/*.txt"):
        path.write_text("1 .2 .2 .5 .1 .6 .4 .3 .5\n")
    labels = read("yolo", root)
    assert any("turned boxes" in note for note in labels.notes)


def test_other_case_of_a_class_stays_two_classes_for_the_check_to_name(tmp_path):
    """Whether "Owl" and "owl" are one class depends on the vocabulary, which `ufo data check` knows."""
    root = labelme(tmp_path)
    edit(root / "a.json", lambda c: c["shapes"][0].update(label="OWL"))
    assert read("labelme", root).classes == [*CLASSES, "OWL"]


def test_coco_of_both_splits_with_the_same_pictures(tmp_path):
    pictures(tmp_path)
    for split in ("train", "val"):
        write_json(tmp_path / f"instances_{split}2017.json", coco_content(list(TRUTH)))
    labels = read("coco", tmp_path)
    assert boxes(labels) == true_boxes()
    assert labels.problems.left_out == {"object that stands there twice": 4}
    assert not labels.problems.doubtful
    (note,) = [note for note in labels.notes if "all 3 pictures of val are those of train as well" in note]
    assert "nothing is left of val and another split is made" in note


def test_what_no_file_can_hold_is_left_out(tmp_path):
    """Half a character in a class or a text, and a file name in Latin-1 on a disk of Linux."""
    root = labelme(tmp_path / "birds")
    edit(root / "a.json", lambda c: c["shapes"][0].update(label="ow\ud83d", description="the owl"))
    edit(root / "c.json", lambda c: c["shapes"][0].update(description="the \ud83d bird"))
    write_image(root / "k.jpg").rename(Path(os.fsdecode(os.fsencode(root) + b"/k\xe4uz.jpg")))
    content = json.loads((root / "c.json").read_text())
    write_json(root / "k.json", {**content, "imagePath": "k\udce4uz.jpg"})
    labels = read("labelme", root)
    assert labels.classes == CLASSES and labels.problems.left_out == {
        "class name with control characters or half characters": 1,
        "text with half a character (a lone surrogate)": 1,
        "picture whose name is not UTF-8: rename it": 1,
    }
    for picture in labels.pictures:
        for thing in picture.things:
            f"{picture.path} {thing.label} {thing.text}".encode()


def test_a_number_behind_a_yolo_box_is_counted(tmp_path):
    """A score or a track, as predictions have it, which nobody may have looked at."""
    root = yolo(tmp_path)
    path = next((root / "labels").rglob("a.txt"))
    path.write_text(
        "0 .5 .5 .2 .2 0.31\n1 .5 .5 .2 .2\n0 .1 .1 .9 .1 .9 .9\n1 .1 .1 .9 .1 .9 .9 .5\n1 .5 .5\n"
    )
    labels = read("yolo", root)
    (picture,) = [picture for picture in labels.pictures if picture.path.name == "a.jpg"]
    assert len(picture.things) == 3
    ((kind, number),) = labels.problems.doubtful.items()
    assert kind.startswith("number behind a box") and number == 1
    assert "a.txt, line 1" in labels.problems.examples[kind][0]
    assert labels.problems.left_out == {"line that is no YOLO label": 2}
