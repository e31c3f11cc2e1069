"""Which image a prediction is about, and what counts where annotations are not as usual."""

from __future__ import annotations

import json

import numpy as np
import PIL.Image
import pytest
import torch
from score_files import coco, detections, refcoco, refs, write

from ufo.callbacks.predictions import Predictions
from ufo.cli.main import main
from ufo.data.datasets.coco import CocoDataset
from ufo.data.datasets.jsonl import JsonlDataset
from ufo.metrics.coco_ap import CocoAP
from ufo.score.predictions.answers import read_record
from ufo.score.texts import FORMATS
from ufo.types import Batch, Prediction

OWL, CAT = [10, 10, 30, 40], [50, 10, 30, 40]


def scored(tmp_path, found, truth, task="grounding", *words):
    """The metrics, and what was odd."""
    out = tmp_path / "score.json"
    assert main(["score", *map(str, (found, "--against", truth, "--task", task, "--json", out, *words))]) == 0
    result = json.loads(out.read_text())
    return {name: metric["value"] for name, metric in result["metrics"].items()}, result["remarks"]


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.zeros((100, 100, 3), np.uint8)).save(path)


def expressions(folder, *names):
    """A JSONL file that asks every image for the same, and the images."""
    for name in names:
        picture(folder / name)
    boxes = (OWL, CAT)
    lines = [{"image": name, "text": "the bird", "bbox": boxes[k]} for k, name in enumerate(names)]
    return write(folder / "truth.jsonl", lines)


def test_images_of_one_name_in_two_folders_are_two(tmp_path):
    truth = expressions(tmp_path, "a/1.png", "b/1.png")
    found = [
        {"image": "b/1.png", "text": "the bird", "bbox": CAT},
        {"image": "a/1.png", "text": "the bird", "bbox": OWL},
    ]
    metrics, _ = scored(
        tmp_path, write(tmp_path / "found.jsonl", found), truth, "grounding", "--boxes", "xywh"
    )
    assert metrics["Acc@0.5"] == 1


def test_an_evaluations_own_predictions_belong_to_their_images(tmp_path):
    """Images called 1 and 2 in another order than the lines of the file."""
    truth = expressions(tmp_path, "2.png", "1.png")
    targets = [JsonlDataset(tmp_path, truth).target(i) for i in range(2)]
    batch = Batch("grounding", "own/grounding", (), torch.zeros(2, 3, 8, 8, dtype=torch.uint8), ["", ""])
    batch.targets = targets
    callback = Predictions(tmp_path / "found")
    callback.collect([Prediction("grounding", boxes=t.boxes, scores=torch.ones(1)) for t in targets], batch)
    callback.write(callback._records, {})
    metrics, _ = scored(tmp_path, tmp_path / "found" / "own_grounding.json", truth)
    assert metrics["Acc@0.5"] == 1


@pytest.mark.parametrize(
    ("names", "fits"),
    [
        (("val/000.jpg", "000"), True),
        (("000.jpg", "/home/me/data/val/000.jpg"), True),
        (("val\\000.jpg", "C:\\data\\val\\000.jpg"), True),
        (("val\\000.jpg", "train/000.jpg"), False),
        (("val/000.jpg", "train/000.jpg"), False),
        (("000.jpg", "000.png"), False),
    ],
)
def test_two_files_are_never_one_image(tmp_path, capsys, names, fits):
    truth = write(tmp_path / "truth.json", coco(images=2))
    found = [{"image": name, "category_id": 3, "bbox": OWL, "score": 0.5} for name in names]
    path = write(tmp_path / "found.json", found)
    assert main(["score", str(path), "--against", str(truth), "--task", "detection"]) == int(not fits)
    assert fits or "name images as the annotations do" in capsys.readouterr().err


def test_an_object_without_a_mask_counts_as_in_a_validation(tmp_path):
    """It is neither found nor missed; without an area the mask says how large an object is."""
    content = coco(images=3)
    for annotation in content["annotations"][::3]:
        annotation["segmentation"] = []
    for annotation in content["annotations"]:
        annotation["area"] = 0
    truth = write(tmp_path / "truth.json", content)
    for record in content["images"]:
        (tmp_path / record["file_name"]).parent.mkdir(exist_ok=True)
        PIL.Image.fromarray(np.zeros((120, 160, 3), np.uint8)).save(tmp_path / record["file_name"])
    data = CocoDataset(tmp_path, truth)
    metric, records = CocoAP("segm", data.classes, (1, 10, 100)), []
    for target in (data.target(i) for i in range(len(data))):
        chosen = [k for k, mask in enumerate(target.masks) if k % 2 or not k]
        masks = [target.masks[k] for k in chosen]
        scores, labels = torch.linspace(0.9, 0.5, len(masks)), target.labels[chosen]
        metric.update(
            masks, scores, labels, target.masks, target.labels, target.iscrowd, target.area.double()
        )
        for mask, score, label in zip(masks, scores.tolist(), labels.tolist(), strict=True):
            rle = {**mask, "counts": mask["counts"].decode()}
            record = {"image_id": target.image_id, "category_id": data.category_ids[label], "score": score}
            records.append({**record, "segmentation": rle})
    found = write(tmp_path / "found.json", records)
    metrics, remarks = scored(tmp_path, found, truth, "instance_segmentation")
    for name, value in metric.compute().items():
        assert metrics[name] == (None if value.isnan() else pytest.approx(float(value))), name
    assert any("area that is 0" in remark for remark in remarks)
    assert any("neither found nor missed" in remark for remark in remarks)


def test_partly_searched_images_are_remarked(tmp_path):
    content = coco(images=2)
    content["images"][0] |= {"neg_category_ids": [3], "not_exhaustive_category_ids": []}
    truth = write(tmp_path / "truth.json", content)
    _, remarks = scored(tmp_path, write(tmp_path / "f.json", detections(content)), truth, "detection")
    assert any(remark.startswith("1x image that was searched for some classes only") for remark in remarks)


def test_an_answer_in_json_may_have_an_apostrophe(tmp_path):
    truth = expressions(tmp_path, "1.png")
    answer = [{"bbox_2d": OWL, "label": "the driver's owl"}]
    found = write(tmp_path / "found.jsonl", [{"image": "1.png", "text": "the bird", "answer": answer}])
    words = ("--answers", "json", "--boxes", "xywh", "--scale", "pixels")
    assert scored(tmp_path, found, truth, "grounding", *words)[0]["Acc@0.5"] == 1


def test_an_answer_that_is_a_list_keeps_its_letters():
    record = {"image": "1.png", "answer": ["<ref>\u96c5 \u00e9t\u00e9</ref><box>(10,10),(40,50)</box>"]}
    assert read_record(record, "here", FORMATS["qwen"], "").labels == ["\u96c5 \u00e9t\u00e9"]


def test_refs_whose_annotation_is_of_another_image_are_remarked(tmp_path):
    content = coco(images=3)
    folder = refcoco(tmp_path / "refcoco", content)
    wrong = refs(content)
    wrong[0]["image_id"] = 24  # the image without objects
    write(folder / "refs(unc).p", wrong)
    found = [
        {"sent_id": s["sent_id"], "bbox": content["annotations"][0]["bbox"]} for s in wrong[0]["sentences"]
    ]
    words = ("--split", "val", "--boxes", "xywh")
    _, remarks = scored(tmp_path, write(tmp_path / "f.jsonl", found), folder, "grounding", *words)
    assert "1x ref whose annotation is of another image" in remarks


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"image_id": 4, "image": "val/000.jpg"}, None),
        ({"image_id": 4, "file_name": "000.jpg", "image_path": "/data/val/000.jpg"}, None),
        ({"image_id": None, "image": "val/000.jpg"}, None),
        ({"image_id": 4, "image": {"bytes": None}}, None),
        ({"image_id": 4, "image": "val/001.jpg"}, "two images in the annotations"),
        ({"image_id": 4, "image": "000.jpg", "img": "001.jpg"}, "two images in the annotations"),
        ({"image": "000.jpg", "image_path": "/data/val/001.jpg"}, "two images in the annotations"),
        ({"image_id": 4, "image": 14}, "two images in the annotations"),
    ],
)
def test_a_record_names_one_image(tmp_path, capsys, names, expected):
    """Its `image_id` won without a word."""
    truth = write(tmp_path / "truth.json", coco(images=2))
    path = write(tmp_path / "found.json", [{**names, "category_id": 3, "bbox": OWL, "score": 0.5}])
    code = main(["score", str(path), "--against", str(truth), "--task", "detection", "--resamples", "0"])
    out, error = capsys.readouterr()
    assert code == int(expected is not None) and (expected or "") in error
    assert len(error.splitlines()) == code and "warning" not in out


def test_an_id_decides_where_workers_call_its_file_by_folders_of_their_own(tmp_path):
    content = coco(images=3)
    truth, files = (
        write(tmp_path / "truth.json", content),
        {i["id"]: i["file_name"] for i in content["images"]},
    )
    found = detections(content)
    called = [
        {**record, "file_name": f"/tmp/worker{place % 2}/{files[record['image_id']]}"}
        for place, record in enumerate(found)
    ]
    one, other = (
        write(tmp_path / name, records) for name, records in (("1.json", found), ("2.json", called))
    )
    assert scored(tmp_path, one, truth, "detection") == scored(tmp_path, other, truth, "detection")


def test_a_strange_file_beside_an_id_is_counted_and_named(tmp_path):
    truth = write(tmp_path / "truth.json", coco(images=2))
    found = [{"image_id": 4, "file_name": name, "category_id": 3, "bbox": OWL} for name in ("owl.jpg", "000")]
    _, remarks = scored(tmp_path, write(tmp_path / "found.json", found), truth, "detection")
    said = [remark for remark in remarks if "a file that the annotations do not have" in remark]
    assert len(said) == 1 and said[0].startswith("warning: 1 records") and "owl.jpg beside 4" in said[0]


@pytest.mark.parametrize(("key", "fits"), [("sent_id", False), ("sentence_id", False), ("id", True)])
def test_a_record_names_one_sentence(tmp_path, capsys, key, fits):
    """`id` may also number the record."""
    content = coco(images=3)
    folder = refcoco(tmp_path / "refcoco", content)
    one, other = refs(content)[:2]
    text = one["sentences"][0]["sent"]
    record = {"image_id": one["image_id"], "text": text, "bbox": OWL}
    right, wrong = one["sentences"][0]["sent_id"], other["sentences"][0]["sent_id"]
    for number, code in ((right, 0), (wrong, 0 if fits else 1), (9999, 0)):
        path = write(tmp_path / "found.jsonl", [{**record, key: number}])
        words = ("--against", folder, "--split", "val", "--task", "grounding", "--boxes", "xywh")
        assert main(["score", str(path), *map(str, words), "--resamples", "0"]) == code
    assert fits or "leave the wrong one out" in capsys.readouterr().err
