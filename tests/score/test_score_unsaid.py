"""What was taken, left out or not read without a word: it ends in one sentence, or is counted and named."""

from __future__ import annotations

import json
import warnings

import pytest
from score_files import coco, detections, refcoco, refs, run, write

BOX = coco()["annotations"][0]["bbox"]  # of a cat, which is 3


def scored(tmp_path, records, *words, task="detection"):
    truth, out = write(tmp_path / "t.json", coco()), tmp_path / "o.json"
    found = write(tmp_path / "f.json", records)
    code = run(found, "--against", truth, "--task", task, "--resamples", 0, "--json", out, *words)
    return code, json.loads(out.read_text()) if code == 0 else {}


def record(**fields):
    return {"image_id": 4, "category_id": 3, "bbox": BOX, "score": 0.5, **fields}


def refused(capsys, expected):
    error = capsys.readouterr().err.strip()
    assert expected in error and len(error.splitlines()) == 1


@pytest.mark.parametrize("name", ["category", "category_name", "label", "class"])
def test_a_class_name_beside_the_id_of_another_class_is_refused(tmp_path, capsys, name):
    """One of the two won without a word."""
    assert scored(tmp_path, [record(**{name: "cat"})])[1]["metrics"]["mAP50"]["value"] > 0
    assert scored(tmp_path, [record(), record(**{name: "red dog"})])[0] == 1
    refused(capsys, "record 2 calls an object")
    code, result = scored(tmp_path, [record(category="cat", category_id=999)])
    assert code == 0 and any("also states a class" in problem for problem in result["problems"])
    assert scored(tmp_path, [record(label="cat", categories=["cat", "red dog"])])[0] == 0  # asked for


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"bbox": [BOX, [1, 2, 3, 4]]}, "has one score for 2 objects"),
        ({"boxes": [[1, 2, 3, 4]]}, "different things in `boxes` and in `bbox`"),
        ({"scores": [0.7]}, "different things in `scores` and in `score`"),
        ({"score": "0.5"}, "is written as a text"),
        ({"score": True}, "holds true or false"),
        ({"score": [False]}, "holds true or false"),
        ({"score": 10**400}, "is no finite number"),
        ({"score": float("inf")}, "is no finite number"),
        ({"score": [float("-inf")]}, "is no finite number"),
        ({"image_id": "4"}, "record 1: `image_id` is the text"),
        ({"category_id": "3"}, "record 1 calls a class by the text"),
        ({"category_id": 3, "label": "3"}, "record 1 calls a class by the text"),
        ({"bbox": ["1", "2", "3", "4"]}, "is written as a text"),
        ({"bbox": [True, 2, 3, 4]}, "holds true or false"),
        ({"bbox": [[1, 2, 3, "4"]]}, "is written as a text"),
        ({"category_id": True}, "a class name or a category id"),
        ({"bbox": 5}, "no box of four numbers"),
        ({"bbox": [[]]}, "no box of four numbers"),
        ({"bbox": [1, 1, 1e308, 1e308]}, "lies in no image"),
        ({"bbox": [1, 1, -1e160, 4]}, "lies in no image"),
    ],
)
def test_what_is_no_number_or_said_twice_is_refused(tmp_path, capsys, fields, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # NumPy told of overflows in its own words
        assert scored(tmp_path, [record(**fields)])[0] == 1
    refused(capsys, expected)


@pytest.mark.parametrize("name", ["f.json", "f.jsonl", "nested.json", "long.json"])
def test_a_key_that_stands_twice_is_refused(tmp_path, capsys, name):
    """The last one won without a word."""
    good = json.dumps(record())
    number = "9" * 5000 if name == "long.json" else "4"
    twice = '{"image_id": ' + number + ', "score": 0.9, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.1}'
    bad = {"nested.json": twice.replace("3,", '{"id": 3, "id": 4},')}.get(name, twice)
    listed = f"{good}\n{bad}\n" if name == "f.jsonl" else f"[{good}, {bad}]"
    (tmp_path / name).write_text(listed)
    truth = write(tmp_path / "t.json", coco())
    assert run(tmp_path / name, "--against", truth, "--task", "detection", "--boxes", "xywh") == 1
    refused(capsys, f"has `{'id' if name == 'nested.json' else 'score'}` twice")


def test_a_key_that_stands_twice_in_annotations_is_refused(tmp_path, capsys):
    text = json.dumps(coco()).replace('"id": 4,', '"id": 4, "id": 14,', 1)
    (tmp_path / "t.json").write_text(text)
    found = write(tmp_path / "f.json", [record()])
    assert run(found, "--against", tmp_path / "t.json", "--task", "detection") == 1
    refused(capsys, 't.json: one object has `id` twice ({"id": 4, "id": 14, "file_name"')


def test_names_of_digits_are_no_numbers(tmp_path):
    """A file name or a class may be called by a number; only an id that is one is written as one."""
    content = coco()
    content["images"][0]["file_name"] = "val/0004.jpg"
    content["categories"] = [{"id": 7, "name": "3"}, {"id": 3, "name": "4"}]
    truth = write(tmp_path / "t.json", content)
    words = ("--against", truth, "--task", "detection", "--resamples", 0, "--json", tmp_path / "o.json")
    for names in ({"image_id": "0004"}, {"image_id": None, "image": "4"}):
        found = write(tmp_path / "f.json", [record(**names, category_id=3, label="4")])
        assert run(found, *words) == 0
        assert json.loads((tmp_path / "o.json").read_text())["metrics"]["mAP50"]["value"] > 0


@pytest.mark.parametrize(
    "words",
    [("--split", "val"), ("--classes", "names.txt"), ("--images", "photos"), ("--reduce-zero-label",)],
)
def test_an_option_of_other_annotations_is_refused(tmp_path, capsys, words):
    """It was printed above the table as if it had been read."""
    assert scored(tmp_path, detections(coco()), *words)[0] == 1
    refused(capsys, f"{words[0]} says nothing about {tmp_path / 't.json'}, a COCO file")


@pytest.mark.parametrize(
    ("task", "words", "expected"),
    [
        ("instance_segmentation", ("--boxes", "xyxy"), "--boxes xyxy is about boxes"),
        ("instance_segmentation", ("--of", "resized:8x8"), "--of resized:8x8 is about boxes"),
        ("detection", ("--scale", "0-1", "--of", "resized:8x8"), "leave one of them out"),
    ],
)
def test_what_is_said_of_boxes_and_not_used_is_refused(tmp_path, capsys, task, words, expected):
    assert scored(tmp_path, detections(coco()), *words, task=task)[0] == 1
    refused(capsys, expected)


def test_objects_below_the_least_score_are_counted(tmp_path):
    found = detections(coco())
    few = sum(one["score"] < 0.3 for one in found)
    remarks = scored(tmp_path, found, "--min-score", 0.3)[1]["remarks"]
    assert remarks == [f"{few} of {len(found)} objects score less than --min-score 0.3 and were left out"]
    (remark,) = scored(tmp_path, found, "--min-score", 5)[1]["remarks"]
    assert remark.startswith(f"warning: {len(found)} of {len(found)} objects score less")
    assert not scored(tmp_path, found)[1]["remarks"]
    logits = [{**one, "score": one["score"] - 3} for one in found]
    assert any("--min-score 0 and were left out" in said for said in scored(tmp_path, logits)[1]["remarks"])


def grounding(tmp_path, records, *words):
    folder, out = refcoco(tmp_path / "refcoco", coco()), tmp_path / "o.json"
    path = write(tmp_path / "found.jsonl", records)
    words = ("--against", folder, "--split", "val", "--task", "grounding", "--resamples", 0, *words)
    code = run(path, *words, "--json", out)
    return code, json.loads(out.read_text())["remarks"] if code == 0 else []


def answers(text, **fields):
    return [{"sent_id": s["sent_id"], "answer": text, **fields} for r in refs(coco()) for s in r["sentences"]]


def test_a_sentences_number_is_not_a_text(tmp_path, capsys):
    found = [{**one, "bbox": BOX} for one in answers("")]
    found[0]["sent_id"] = str(found[0]["sent_id"])
    assert grounding(tmp_path, found, "--boxes", "xywh")[0] == 1
    refused(capsys, f'line 1: `sent_id` is the text "{found[0]["sent_id"]}"')


def test_a_least_score_that_leaves_nothing_out_is_refused(tmp_path, capsys):
    found = [{**one, "bbox": BOX} for one in answers("")]
    assert grounding(tmp_path, found, "--boxes", "xywh")[0] == 0
    assert grounding(tmp_path, found, "--boxes", "xywh", "--min-score", 0.5)[0] == 1
    refused(capsys, "--min-score 0.5 would leave nothing out")


def test_a_unit_against_that_of_the_format_is_told(tmp_path):
    """The format fixes its own; what is declared counts, since a fine-tuned model may count otherwise."""
    found = answers("<loc0256><loc0130><loc0769><loc0900> dog")
    told = "warning: --scale 0-1000 counts, and not bins:1024, which `paligemma` says of itself"
    assert told in grounding(tmp_path, found, "--answers", "paligemma", "--scale", "0-1000")[1]
    for words in ((), ("--scale", "bins:1024"), ("--boxes", "xyxy")):
        remarks = grounding(tmp_path, found, "--answers", "paligemma", *words)[1]
        assert not any("says of itself" in remark for remark in remarks)


def test_answers_in_words(tmp_path, capsys):
    words = ("--answers", "qwen", "--scale", "0-1000")
    two = answers("<box>(1,2),(30,40)</box><box>(5,6),(70,80)</box>", score=0.5)
    remarks = grounding(tmp_path, two, *words)[1]
    assert f"{len(two)} answers state one score, which counts for each of their several objects" in remarks
    # of a file with the right answers in it these were scored
    both = [{**one, "prediction": "<box>(0,0),(1,1)</box>"} for one in two]
    assert grounding(tmp_path, both, *words)[0] == 1
    refused(capsys, "different things in `answer` and in `prediction`")
    huge = answers("<box>(1,2),(30," + "9" * 200 + ")</box>")
    assert any("lies in no image" in remark for remark in grounding(tmp_path, huge, *words)[1])


def test_what_annotations_number_twice_is_named(tmp_path, capsys):
    for section, said in (
        ("images", "the images val/000.jpg and val/001.jpg have the same id 4; number the images anew"),
        ("categories", "two categories have the same id 3, cat and red dog; number them anew"),
    ):
        content = coco()
        content[section] = [dict(entry) for entry in content[section]]
        content[section][1]["id"] = content[section][0]["id"]
        truth, found = write(tmp_path / "t.json", content), write(tmp_path / "f.json", [record()])
        assert run(found, "--against", truth, "--task", "detection") == 1
        refused(capsys, said)
