"""What prediction files may hold beside good records: one sentence each, or a score of zero."""

from __future__ import annotations

import json

import pytest
from score_files import coco, detections, run, write


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"category_id": {"a": 1}, "bbox": [1, 2, 3, 4]}, "a class name or a category id"),
        ({"category_id": 3, "bbox": "1,2,3,4"}, "no box of four numbers"),
        ({"category_id": 3, "bbox": [[1, 2, 3, 4]] * 2, "score": [0.5]}, "1 scores for 2 objects"),
        ({"bbox": [1, 2, 3, 4]}, "does not say the class"),
        ({"category_id": 3, "segmentation": [[1, 1, 9, 1, 9, 9]], "score": 0.5}, "has no box of each"),
        ({"category_id": 3, "bboxs": [1, 2, 3, 4]}, "has no box of each"),
    ],
)
def test_odd_objects_end_in_one_sentence(tmp_path, capsys, record, expected):
    truth = write(tmp_path / "t.json", coco())
    found = write(tmp_path / "f.json", [{"image_id": 4, **record}])
    assert run(found, "--against", truth, "--task", "detection") == 1
    error = capsys.readouterr().err.strip()
    assert expected in error and len(error.splitlines()) == 1


def test_only_unknown_classes(tmp_path, capsys):
    truth = write(tmp_path / "t.json", coco())
    strange = {"image_id": 4, "category": "owl", "bbox": [1, 2, 3, 4], "score": 0.5}
    words = ("--against", truth, "--task", "detection", "--resamples", 5, "--json", tmp_path / "o.json")
    assert run(write(tmp_path / "f.json", [strange]), *words) == 0
    result = json.loads((tmp_path / "o.json").read_text())
    assert result["metrics"]["mAP"]["value"] == 0 and "owl (1)" in "".join(result["remarks"])


def test_empty_files_and_other_files(tmp_path, capsys):
    truth = write(tmp_path / "t.json", coco())
    (tmp_path / "table.csv").write_text("a,b")
    (tmp_path / "long.json").write_text(
        '[{"image_id": 4, "bbox": [1, 2, ' + "9" * 5000 + ", .4]}]"
    )  # and no JSON
    (tmp_path / "empty.json").write_text("")
    (tmp_path / "f.json").write_text('{"images": []}')
    for name in ("empty.json", "f.json", "table.csv", "gone.json", "long.json"):
        found = tmp_path / name
        assert run(found, "--against", truth, "--task", "detection") == 1
        error = capsys.readouterr().err.strip()
        assert len(error.splitlines()) == 1 and found.name in error


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("f.json", "[null]", "f.json, record 1"),
        ("f.json", '{"predictions": [null]}', "f.json, record 1"),
        ("f.jsonl", "\nnull\n", "f.jsonl, line 2"),
    ],
)
def test_null_is_no_prediction(tmp_path, capsys, name, text, place):
    truth = write(tmp_path / "t.json", coco())
    (tmp_path / name).write_text(text)
    assert run(tmp_path / name, "--against", truth, "--task", "detection") == 1
    assert f"{place} is not a JSON object" in capsys.readouterr().err


def test_an_object_whose_box_is_null_is_refused(tmp_path, capsys):
    """It was left out without a word; a mask needs no box beside it."""
    content = coco()
    truth, found = write(tmp_path / "t.json", content), detections(content)
    drawn = [
        {**record, "bbox": None, "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]}
        for record in found
        for x, y, w, h in [record["bbox"]]
    ]
    masks = write(tmp_path / "m.json", drawn)
    assert run(masks, "--against", truth, "--task", "instance_segmentation", "--resamples", 0) == 0
    for empty, said in ((None, "null"), ([], "an empty list")):
        boxless = write(tmp_path / "f.json", [*found[:-1], {**found[-1], "bbox": empty}])
        assert run(boxless, "--against", truth, "--task", "detection") == 1
        assert f"record {len(found)} has a class and no box, but {said}" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["detection", "instance_segmentation"])
def test_a_model_that_found_nothing_scores_zero(tmp_path, capsys, task):
    content = coco()
    truth, found = write(tmp_path / "t.json", content), write(tmp_path / "f.json", detections(content))
    nothing, out = tmp_path / "nothing.json", tmp_path / "o.json"
    nothing.write_text("[]")
    words = ("--against", truth, "--task", task, "--resamples", 20, "--json", out)
    assert run(nothing, *words) == 0
    result = json.loads(out.read_text())
    assert result["metrics"]["mAP"]["value"] == 0 and result["missing"] == result["images"] == 5
    assert "5 of 5 images have no prediction" in capsys.readouterr().out
    if task == "detection":
        assert run(found, *words, "--versus", nothing) == 0


def test_a_least_score_is_a_number(tmp_path, capsys):
    """Nothing is above nan or infinity: everything would be left out."""
    content = coco()
    truth, found = write(tmp_path / "t.json", content), write(tmp_path / "f.json", detections(content))
    for least in ("nan", "inf"):
        assert run(found, "--against", truth, "--task", "detection", "--min-score", least) == 1
        assert f"--min-score is a finite number, not {least}" in capsys.readouterr().err


def test_lines_and_lists_are_read_as_what_they_are(tmp_path, capsys):
    """Whatever the name of the file; boxes of lines are in no order of their own, those of lists COCO's."""
    content = coco()
    truth, found = write(tmp_path / "t.json", content), detections(content)
    lines, results = "".join(json.dumps(one) + "\n" for one in found), json.dumps(found, indent=1)
    words = ("--against", truth, "--task", "detection", "--resamples", 0, "--json", tmp_path / "o.json")
    values = []
    for name, text in (("a.json", results), ("b.jsonl", results), ("c.json", lines), ("d.jsonl", lines)):
        (tmp_path / name).write_text(text)
        declared = ("--boxes", "xywh") if text == lines else ()
        assert run(tmp_path / name, *words, *declared) == 0, name
        values.append(json.loads((tmp_path / "o.json").read_text())["metrics"])
        assert run(tmp_path / name, *words) == int(text == lines)
    assert values == [values[0]] * 4 and "say it: --boxes" in capsys.readouterr().err


def test_annotations_are_read_as_what_they_are(tmp_path):
    picture = {"image": "a.jpg", "height": 40, "width": 40}
    asked = [{**picture, "text": f"bird {k}", "bbox": [k, 2, 9, 9]} for k in (1, 2)]
    found = write(tmp_path / "f.jsonl", asked)
    (tmp_path / "lines.json").write_text("".join(json.dumps(one) + "\n" for one in asked))
    words = ("--against", tmp_path / "lines.json", "--task", "grounding", "--boxes", "xywh")
    assert run(found, *words, "--json", tmp_path / "o.json") == 0
    assert json.loads((tmp_path / "o.json").read_text())["metrics"]["Acc@0.5"]["value"] == 1
    found = write(tmp_path / "f.json", detections(coco()))
    for name, indent in (("t.jsonl", 1), ("t.json", None)):
        (tmp_path / name).write_text(json.dumps(coco(), indent=indent))
        assert run(found, "--against", tmp_path / name, "--task", "detection", "--resamples", 0) == 0
