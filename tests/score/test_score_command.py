"""`ufo score` as a user runs it: tables, files, warnings, comparisons, and errors in one sentence."""

from __future__ import annotations

import json

import numpy as np
import PIL.Image
import pytest
from score_files import SIZE, coco, detections, refcoco, refs, run, write

from ufo.score.convention import Convention


def expressions(content, change=lambda box: box):
    boxes = {a["id"]: a["bbox"] for a in content["annotations"]}
    for ref in refs(content):
        for sentence in ref["sentences"]:
            yield {"sent_id": sentence["sent_id"], "bbox": change(boxes[ref["ann_id"]])}


@pytest.fixture
def folder(tmp_path):
    return refcoco(tmp_path / "refcoco", coco())


def grounding(tmp_path, folder, records, *words: object):
    path = write(tmp_path / "found.jsonl", list(records))
    out = tmp_path / "out.json"
    code = run(path, "--against", folder, "--split", "val", "--task", "grounding", "--json", out, *words)
    return code, json.loads(out.read_text()) if out.exists() else {}


def test_one_table_with_intervals_in_markdown_and_json(tmp_path, capsys):
    content = coco()
    truth, found = write(tmp_path / "t.json", content), write(tmp_path / "f.json", detections(content))
    words = (found, "--against", truth, "--task", "detection", "--resamples", 50)
    assert run(*words, "--json", tmp_path / "o.json", "--out", tmp_path / "scores.txt") == 0
    text = capsys.readouterr().out
    result = json.loads((tmp_path / "o.json").read_text())
    value = result["metrics"]["mAP"]
    assert f"| {value['value']:.4f} " in text and f"{value['low']:.4f} to {value['high']:.4f}" in text
    assert (tmp_path / "scores.txt").read_text() == text
    assert "xywh in pixels of the original image" in text and "| red dog" in text and "| small" in text
    assert result["images"] == 5 and result["missing"] == 0


@pytest.mark.heavy
def test_the_same_numbers_again(tmp_path, folder):
    records = list(expressions(coco(), lambda b: [b[0] + 6, *b[1:]]))
    first, second = (grounding(tmp_path, folder, records, "--boxes", "xywh")[1] for _ in range(2))
    other = grounding(tmp_path, folder, records, "--boxes", "xywh", "--seed", 1)[1]
    assert first == second and first["metrics"]["mean_IoU"]["low"] != other["metrics"]["mean_IoU"]["low"]


@pytest.mark.parametrize(
    ("declared", "write_box"),
    [
        (("--boxes", "xyxy"), lambda x, y, w, h: [x, y, x + w, y + h]),
        (("--boxes", "cxcywh"), lambda x, y, w, h: [x + w / 2, y + h / 2, w, h]),
        (
            ("--boxes", "xywh", "--scale", "0-1"),
            lambda x, y, w, h: [x / SIZE[1], y / SIZE[0], w / SIZE[1], h / SIZE[0]],
        ),
        (
            ("--boxes", "xywh", "--scale", "0-1000"),
            lambda x, y, w, h: [1000 * v / s for v, s in zip((x, y, w, h), SIZE[::-1] * 2, strict=True)],
        ),
        (
            ("--boxes", "xywh", "--scale", "0-999"),
            lambda x, y, w, h: [999 * v / s for v, s in zip((x, y, w, h), SIZE[::-1] * 2, strict=True)],
        ),
        (
            ("--boxes", "xywh", "--scale", "bins:64"),
            lambda x, y, w, h: [64 * v / s for v, s in zip((x, y, w, h), SIZE[::-1] * 2, strict=True)],
        ),
        (("--boxes", "xywh", "--of", "resized:240x80"), lambda x, y, w, h: [x / 2, y * 2, w / 2, h * 2]),
    ],
)
def test_every_declared_convention_scores_the_truth_as_right(tmp_path, folder, declared, write_box):
    records = list(expressions(coco(), lambda box: write_box(*box)))
    code, result = grounding(tmp_path, folder, records, *declared)
    assert code == 0 and result["metrics"]["mean_IoU"]["value"] == pytest.approx(1, abs=1e-9)
    assert not result["remarks"]


def test_a_far_better_convention_is_told_and_the_declared_one_scored(tmp_path, folder, capsys):
    records = list(expressions(coco()))
    code, result = grounding(tmp_path, folder, records, "--boxes", "cxcywh")
    assert code == 0 and result["metrics"]["Acc@0.5"]["value"] < 0.5
    assert (
        "--boxes xywh --scale pixels" in result["remarks"][0] and "scored as declared" in result["remarks"][0]
    )
    assert (
        result["boxes"].startswith("cxcywh")
        and "warning: the boxes fit far better" in capsys.readouterr().out
    )


def test_conventions_say_what_they_are():
    assert Convention("xyxy", "0-1000").options == "--boxes xyxy --scale 0-1000"
    assert Convention("xywh", of=(448, 448)).options.endswith("--of resized:448x448")


@pytest.mark.heavy
def test_versus_tests_the_difference_on_the_same_images(tmp_path, folder, capsys):
    content = coco(images=12)
    folder = refcoco(tmp_path / "more", content)
    better = write(tmp_path / "better.jsonl", list(expressions(content)))
    worse = list(expressions(content, lambda b: [b[0] + 0.6 * b[2], *b[1:]]))
    code, result = grounding(tmp_path, folder, worse, "--boxes", "xywh", "--versus", better)
    found = result["differences"]["Acc@0.5"]
    assert code == 0 and found["value"] == 1 and found["low"] == 1 and found["p"] < 0.01
    same = grounding(tmp_path, folder, worse, "--boxes", "xywh", "--versus", tmp_path / "found.jsonl")[1]
    assert same["differences"]["mean_IoU"] == {"value": 0, "low": 0, "high": 0, "p": 1}
    assert "better.jsonl" in capsys.readouterr().out


def test_texts_are_parsed_and_what_is_broken_is_counted(tmp_path, folder):
    boxes = {a["id"]: a["bbox"] for a in coco()["annotations"]}
    records = []
    for number, ref in enumerate(refs(coco())):
        x, y, w, h = boxes[ref["ann_id"]]
        for sentence in ref["sentences"]:
            answer = f"<box>({x},{y}),({x + w},{y + h})</box>"
            answer = ("I see none", answer[:-9], answer)[min(number, 2)]
            records.append({"sent_id": sentence["sent_id"], "answer": answer})
    code, result = grounding(tmp_path, folder, records, "--answers", "qwen", "--scale", "pixels")
    assert code == 0 and result["problems"] == {"answer without any object": 2, "answer not in its format": 2}
    assert result["metrics"]["Acc@0.5"]["value"] == pytest.approx(1 - 4 / len(records))


def test_answers_of_another_format_are_told(tmp_path, folder):
    answer = "<loc0256><loc0130><loc0769><loc0900> cat"
    records = [{"sent_id": s["sent_id"], "answer": answer} for ref in refs(coco()) for s in ref["sentences"]]
    code, result = grounding(tmp_path, folder, records, "--answers", "qwen", "--scale", "0-1000")
    (said,) = [remark for remark in result["remarks"] if "answer" in remark]
    assert code == 0 and f"{len(records)} of {len(records)} do as `paligemma` does" in said
    assert "say --answers paligemma" in said
    records = [{**record, "answer": "I see none"} for record in records]
    _, result = grounding(tmp_path, folder, records, "--answers", "qwen", "--scale", "0-1000")
    assert not any("say --answers" in remark for remark in result["remarks"])


def test_answers_in_words_without_their_format_are_refused(tmp_path, folder, capsys):
    records = [{"sent_id": 1, "answer": "<loc0256><loc0130><loc0769><loc0900> cat"}]
    code, _ = grounding(tmp_path, folder, records)
    assert code == 1 and "say how its boxes are written: --answers ufo, qwen" in capsys.readouterr().err


def test_missing_predictions_are_misses_and_named(tmp_path, folder, capsys):
    records = list(expressions(coco()))
    code, result = grounding(tmp_path, folder, records[2:], "--boxes", "xywh")
    assert code == 0 and result["missing"] == 2
    assert result["metrics"]["Acc@0.5"]["value"] == pytest.approx(1 - 2 / len(records))
    assert '"thing 1 way 0" in image 4' in capsys.readouterr().out


def test_boxes_inside_out_are_misses_and_counted(tmp_path, folder):
    records = list(expressions(coco()))
    x, y, w, h = records[0]["bbox"]
    records[0]["bbox"] = [x + w, y + h, -w, -h]
    result = grounding(tmp_path, folder, records, "--boxes", "xywh")[1]
    assert result["metrics"]["Acc@0.5"]["value"] == pytest.approx(1 - 1 / len(records))
    assert list(result["problems"].values()) == [1]


@pytest.mark.parametrize(
    ("change", "words", "expected"),
    [
        (lambda r: r[0].update(bbox=[1, 2, float("nan"), 4]), ("--boxes", "xywh"), "NaN or infinite"),
        (lambda r: r[0].update(bbox=[1, 2, 3]), ("--boxes", "xywh"), "no box of four numbers"),
        (lambda r: r.append(dict(r[0])), ("--boxes", "xywh"), "another prediction for"),
        (lambda r: r[0].update(score=float("nan")), ("--boxes", "xywh"), "is no finite number"),
        (lambda r: r[0].update(sent_id=99999), ("--boxes", "xywh"), "add `image_id` or `image`"),
        (lambda r: r[0].update(boxs=r[0].pop("bbox")), ("--boxes", "xywh"), "add `bbox` or `boxes`"),
        (lambda r: r[0].update(image_id=77), ("--boxes", "xywh"), "image 77, which"),
        (lambda r: r[0].update(image_id=14), ("--boxes", "xywh"), "is about image 4"),
        (
            lambda r: r[0].update(image_id=4, text="no such text"),
            ("--boxes", "xywh"),
            "is not asked about image",
        ),
        (lambda r: [a.pop("sent_id") for a in r[1:]], ("--boxes", "xywh"), "some do not"),
        (lambda r: ([a.pop("sent_id") for a in r], r.pop()), ("--boxes", "xywh"), "does not say which is"),
        (lambda r: None, (), "say it: --boxes"),
        (lambda r: None, ("--boxes", "xywh", "--scale", "0-100"), "--scale 0-100"),
        (lambda r: None, ("--boxes", "xywh", "--of", "448"), "resized:HEIGHTxWIDTH"),
        (lambda r: [a.update(answer="x") for a in r], ("--answers", "qwen"), "count in different units"),
        (lambda r: r[0].update(answer=3), ("--answers", "json", "--scale", "0-1"), "has no text"),
        (lambda r: None, ("--boxes", "xywh", "--resamples", -1), "--resamples must be"),
    ],
)
def test_bad_input_ends_in_one_sentence(tmp_path, folder, capsys, change, words, expected):
    records = list(expressions(coco()))
    change(records)
    code, _ = grounding(tmp_path, folder, records, *words)
    error = capsys.readouterr().err.strip()
    assert code == 1 and expected in error
    assert len(error.splitlines()) == 1 and error.startswith("error: ")


def test_images_that_the_annotations_do_not_have(tmp_path, capsys):
    content = coco()
    truth = write(tmp_path / "t.json", content)
    found = write(
        tmp_path / "f.json", [*detections(content), {"image_id": 5, "category_id": 3, "bbox": [0, 0, 9, 9]}]
    )
    assert run(found, "--against", truth, "--task", "detection") == 1
    assert "image 5, which" in capsys.readouterr().err


def test_annotations_that_the_task_is_not_about(tmp_path, folder, capsys):
    truth = write(tmp_path / "t.json", coco())
    found = write(tmp_path / "f.json", detections(coco()))
    assert run(found, "--against", truth, "--task", "grounding") == 1
    assert "choose another task" in capsys.readouterr().err
    assert run(found, "--against", folder, "--split", "testC", "--task", "grounding") == 1
    assert "give --split with one of: val" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["f.json", "f.jsonl"])
@pytest.mark.parametrize("expressed", [False, True])
def test_files_the_wrong_way_round_are_told(tmp_path, folder, capsys, name, expressed):
    truth = folder if expressed else write(tmp_path / "t.json", coco())
    found = write(tmp_path / name, list(expressions(coco())) if expressed else detections(coco()))
    task = "grounding" if expressed else "detection"
    assert run(truth, "--against", found, "--task", task, "--boxes", "xywh") == 1
    error = capsys.readouterr().err.strip()
    assert f"write ufo score {found} --against {truth}" in error and len(error.splitlines()) == 1


def test_a_list_of_results_is_no_annotations(tmp_path, capsys):
    found = write(tmp_path / "f.json", detections(coco()))
    assert run(found, "--against", found, "--task", "detection") == 1
    error = capsys.readouterr().err.strip()
    assert "holds no annotations; write ufo score PREDICTIONS --against" in error
    assert len(error.splitlines()) == 1


def test_label_maps(tmp_path, capsys):
    rng = np.random.default_rng(0)
    (tmp_path / "names.txt").write_text("sky\nroad\ntree\n")
    both, union = np.zeros(3), np.zeros(3)
    for number in range(3):
        wanted, found = rng.integers(0, 3, (2, 20, 30)).astype(np.uint8)
        found[:, :15] = wanted[:, :15]
        wanted[0] = 255
        for name, labels in (("truth", wanted), ("found", found)):
            (tmp_path / name).mkdir(exist_ok=True)
            PIL.Image.fromarray(labels).save(tmp_path / name / f"{number}.png")
        for k in range(3):
            one, other = (found == k) & (wanted != 255), wanted == k
            both[k], union[k] = both[k] + (one & other).sum(), union[k] + (one | other).sum()
    words = ("--against", tmp_path / "truth", "--task", "semantic_segmentation")
    assert run(tmp_path / "found", *words) == 1 and "--classes" in capsys.readouterr().err
    words = (*words, "--classes", tmp_path / "names.txt", "--json", tmp_path / "o.json")
    assert run(tmp_path / "found", *words) == 0
    result = json.loads((tmp_path / "o.json").read_text())
    assert result["metrics"]["mIoU"]["value"] == pytest.approx((both / union).mean(), abs=1e-12)
    assert result["tables"]["class"]["road"]["IoU"] == pytest.approx((both / union)[1], abs=1e-12)
    assert (
        result["metrics"]["mIoU"]["low"]
        < result["metrics"]["mIoU"]["value"]
        < result["metrics"]["mIoU"]["high"]
    )
    (tmp_path / "found" / "1.png").unlink()
    assert run(tmp_path / "found", *words) == 0
    worse = json.loads((tmp_path / "o.json").read_text())
    assert worse["missing"] == 1 and worse["metrics"]["mIoU"]["value"] < result["metrics"]["mIoU"]["value"]


def test_expressions_of_jsonl(tmp_path):
    lines = [
        {"image": "a.jpg", "text": "the owl", "bbox": [10, 10, 30, 40], "height": 100, "width": 100},
        {"image": "a.jpg", "text": "the cat", "bbox": [50, 10, 30, 40], "height": 100, "width": 100},
    ]
    truth = write(tmp_path / "truth.jsonl", lines)
    found = [{"image": "a.jpg", "text": "the cat", "box": [0.5, 0.1, 0.8, 0.5]}]
    path = write(tmp_path / "found.jsonl", found)
    words = ("--boxes", "xyxy", "--scale", "0-1", "--json", tmp_path / "o.json")
    assert run(path, "--against", truth, "--task", "grounding", *words) == 0
    result = json.loads((tmp_path / "o.json").read_text())
    assert result["metrics"]["Acc@0.5"]["value"] == 0.5 and result["missing"] == 1


def test_no_difference_where_a_metric_is_not_defined(tmp_path):
    content = coco()
    for annotation in content["annotations"]:
        annotation["area"] = 30.0 * 30.0
    truth = write(tmp_path / "t.json", content)
    found = write(
        tmp_path / "f.json", [{"image_id": 4, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}]
    )
    words = ("--versus", found, "--resamples", 5, "--json", tmp_path / "o.json", "--out", tmp_path / "o.txt")
    assert run(found, "--against", truth, "--task", "detection", *words) == 0
    assert json.loads((tmp_path / "o.json").read_text())["differences"]["mAP_large"]["p"] is None
    row = next(line for line in (tmp_path / "o.txt").read_text().splitlines() if "mAP_large" in line)
    assert set(row.split("|")[2].strip() + row.split("|")[-2].strip()) == {"-"}


def test_annotations_are_recognised_by_what_they_hold(tmp_path, capsys):
    found = write(tmp_path / "f.json", [])
    (tmp_path / "boxes.csv").write_text("image,x1\n")
    assert run(found, "--against", tmp_path / "boxes.csv", "--task", "detection") == 1
    assert "annotations are a COCO .json" in capsys.readouterr().err
    write(tmp_path / "instances", coco())
    assert run(found, "--against", tmp_path / "instances", "--task", "detection") == 0


def test_an_empty_list_answers_no_expression(tmp_path, folder, capsys):
    (tmp_path / "nothing.json").write_text("[]")
    words = ("--against", folder, "--split", "val", "--task", "grounding")
    assert run(tmp_path / "nothing.json", *words) == 1
    assert "has no prediction for any" in capsys.readouterr().err
