"""`ufo data export` as a user types it: what label tools read, and an import gives back."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))  # the exports of label tools

from files import write_json
from label_files import boxes, imported, predictions, tree_hash
from pycocotools import mask as coco_mask

from ufo.data.formats import format_named
from ufo.data.labels.shapes import area


@pytest.fixture
def ufo(ufo_data):
    return ufo_data


@pytest.mark.parametrize("polygons", [False, True])
@pytest.mark.parametrize("tool", ["label_studio", "cvat", "labelme"])
def test_export_and_import_give_the_same(tool, polygons, ufo, tmp_path):
    path, records = predictions(tmp_path)
    images, out = tmp_path / "pictures", tmp_path / "out"
    before = tree_hash(images)
    options = ["--images", images, "--out", out, *(["--polygons"] if polygons else [])]
    code, said = ufo("export", tool, path, *options)
    assert code == 0 and "3 objects in 2 pictures (1 below --score 0.3)" in said, said
    assert "1x picture that is not there, left out" in said and tree_hash(images) == before
    source = out
    if tool == "label_studio":  # predictions become annotations when somebody accepts them
        tasks = json.loads((out / "tasks.json").read_text())
        assert {task["predictions"][0]["model_version"] for task in tasks} == {"ufo"}
        assert tasks[0]["predictions"][0]["result"][0]["score"] == 0.9
        for task in tasks:
            task["annotations"] = [{"result": task.pop("predictions")[0]["result"], "was_cancelled": False}]
        source = write_json(tmp_path / "accepted" / "tasks.json", tasks)
    labels = imported(format_named(tool), source, images=images)
    found = boxes(labels)
    assert found["x y.png"] == [("owl", (0, 0, 40, 60))]
    (first, box), (second, around) = found["0001.jpg"]
    assert (first, second) == ("owl", "great tit")
    assert box == pytest.approx((3.5, 4.25, 23.5, 34.75), abs=0.01)
    x, y, w, h = records[1]["bbox"]
    assert around == pytest.approx((x, y, x + w, y + h), abs=1)
    thing = labels.pictures[0].things[1]
    if polygons:
        covered = coco_mask.area(records[1]["segmentation"])
        assert sum(map(area, thing.polygons)) == pytest.approx(covered, rel=0.05)
    else:
        assert thing.rle == records[1]["segmentation"]
    code, said = ufo("export", tool, path, *options)
    assert code == 1 and "is there already" in said
    assert ufo("export", tool, path, *options, "--force")[0] == 0


def test_parts_of_one_object_stay_one(ufo, tmp_path):
    path, _ = predictions(tmp_path)
    two = [[2, 2, 12, 2, 12, 12, 2, 12], [30, 20, 50, 20, 50, 40, 30, 40]]
    head = {"image_id": 1, "file_name": "0001.jpg", "category": "owl", "bbox": [2, 2, 48, 38]}
    write_json(path, [{**head, "segmentation": two, "score": 1.0}])
    for tool in ("cvat", "labelme"):
        code, said = ufo("export", tool, path, "--images", tmp_path / "pictures", "--out", tmp_path / tool)
        assert code == 0 and ("several parts, written as a mask" in said) == (tool == "cvat")
        labels = imported(format_named(tool), tmp_path / tool, images=tmp_path / "pictures")
        assert boxes(labels)["0001.jpg"] == [("owl", (2, 2, 50, 40))]


@pytest.mark.parametrize("tool", ["label_studio", "cvat", "labelme"])
def test_predictions_that_no_tool_could_read_are_left_out(tool, ufo, tmp_path):
    path, _ = predictions(tmp_path)
    good = {"file_name": "0001.jpg", "category": 'a<b&"c', "bbox": [3, 4, 20, 30]}
    bad = [
        {"bbox": [9, 9, -3, -4]},
        {"bbox": [900, 900, 3, 3]},
        {"category": "o\u0001"},
        {"category": "o\ud800"},
    ]
    path.write_bytes(json.dumps([good, *({**good, **change} for change in bad)]).encode("utf-8-sig"))
    code, said = ufo("export", tool, path, "--images", tmp_path / "pictures", "--out", tmp_path / tool)
    assert code == 0 and "1 objects in 1 pictures" in said, said
    for kind in (
        "1x box of negative size",
        "1x box outside its picture",
        "2x class name with control characters",
    ):
        assert kind in said
    if tool != "label_studio":
        labels = imported(format_named(tool), tmp_path / tool, images=tmp_path / "pictures")
        assert boxes(labels)["0001.jpg"] == [('a<b&"c', (3, 4, 23, 34))]


def test_export_of_ids_and_several_tasks(ufo, tmp_path):
    path, _ = predictions(tmp_path)
    ids = {"images": [{"id": 77, "file_name": "0001.jpg"}], "categories": [{"id": 5, "name": "kite"}]}
    write_json(tmp_path / "own.json", ids)
    write_json(path, {"caption": [], "detection": [{"image_id": 77, "category_id": 5, "bbox": [1, 2, 3, 4]}]})
    options = ["--images", tmp_path / "pictures", "--out", tmp_path / "out"]
    code, said = ufo("export", "cvat", path, *options, "--ids", tmp_path / "own.json")
    assert code == 0 and "the predictions of detection" in said
    assert 'label="kite"' in (tmp_path / "out" / "annotations.xml").read_text()
    line = {"file_name": "0001.jpg", "category": "kite", "bbox": [1, 2, 3, 4], "score": 0.9}
    lines = tmp_path / "found.jsonl"
    lines.write_text(f"{json.dumps(line)}\n{json.dumps(line)}\n")
    code, said = ufo("export", "cvat", lines, *options, "--force")
    assert code == 0 and "2 objects in 1 pictures" in said
    code, said = ufo("export", "yolo", path, *options)
    assert code == 1 and "there is no format 'yolo'" in said.lower() and "cvat" in said
    code, said = ufo("export", "cvat", path, *options, "--task", "grounding", "--force")
    assert code == 1 and "it has caption, detection" in said
    write_json(path, [])
    code, said = ufo("export", "cvat", path, *options, "--force")
    assert code == 1 and "holds no prediction" in said and "--score" in said
