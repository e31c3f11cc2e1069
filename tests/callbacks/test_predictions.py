"""Results of an evaluation: pycocotools on the user's own file gives the metric's number."""

import contextlib
import io
import json
from types import SimpleNamespace

import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ufo.callbacks.predictions import Predictions
from ufo.types import Batch, Prediction, Target

CLASSES = ("owl", "heron")


def batch_of(targets):
    return Batch(
        task="detection",
        source="own/detection",
        classes=CLASSES,
        images=torch.zeros(len(targets), 3, 8, 8, dtype=torch.uint8),
        texts=[""] * len(targets),
        targets=targets,
    )


def found(boxes, scores, labels):
    return Prediction(
        task="detection",
        boxes=torch.tensor(boxes),
        scores=torch.tensor(scores),
        labels=torch.tensor(labels),
        classes=CLASSES,
    )


def truth(k, image_id, boxes, labels):
    return Target(
        id=k,
        size=(80, 100),
        image=f"images/{k}.png",
        image_id=image_id,
        boxes=torch.tensor(boxes),
        labels=torch.tensor(labels),
    )


def written(folder, category_ids, image_ids):
    """The file that the callback writes for two images."""
    targets = [
        truth(0, image_ids[0], [[10.0, 10.0, 40.0, 40.0], [50.0, 20.0, 90.0, 70.0]], [0, 1]),
        truth(1, image_ids[1], [[5.0, 5.0, 60.0, 60.0]], [1]),
    ]
    outputs = [
        found([[11.0, 10.0, 40.0, 41.0], [52.0, 20.0, 90.0, 70.0]], [0.9, 0.8], [0, 0]),
        found([[5.0, 6.0, 60.0, 60.0]], [0.7], [1]),
    ]
    callback = Predictions(folder)
    callback.start()
    for target, output in zip(targets, outputs, strict=True):
        callback.see(None, [output], batch_of([target]))
    callback.see(None, [outputs[0]], batch_of([targets[0]]))  # what a distributed sampler repeats
    data = SimpleNamespace(category_ids=category_ids)
    source = SimpleNamespace(name="own/detection", has=lambda split: True, data=lambda split: data)
    trainer = SimpleNamespace(is_global_zero=True, datamodule=SimpleNamespace(sources=[source]))
    callback.finish(trainer, None)
    return json.loads((folder / "own_detection.json").read_text()), targets


def map50(records, targets, category_ids, folder):
    content = {
        "images": [{"id": t.image_id, "file_name": t.image, "height": 80, "width": 100} for t in targets],
        "categories": [{"id": k, "name": name} for k, name in zip(category_ids, CLASSES, strict=True)],
        "annotations": [],
    }
    for t in targets:
        for (x1, y1, x2, y2), label in zip(t.boxes.tolist(), t.labels.tolist(), strict=True):
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": t.image_id,
                    "category_id": category_ids[label],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
    (folder / "own.json").write_text(json.dumps(content))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(folder / "own.json"))
        evaluator = COCOeval(coco, coco.loadRes(records), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return float(evaluator.stats[1])


@pytest.mark.parametrize("category_ids", [(1, 2), (0, 1), (90, 7)])
@pytest.mark.parametrize("image_ids", [(0, 1), (397133, 12)])
def test_pycocotools_gives_the_same_number_whatever_the_ids(tmp_path, category_ids, image_ids):
    records, targets = written(tmp_path, category_ids, image_ids)
    assert len(records) == 3
    assert [r["category_id"] for r in records] == [category_ids[0], category_ids[0], category_ids[1]]
    # one of two herons is found, and the owl besides a wrong one: 1.0 for owls, 0.5 for herons
    assert map50(records, targets, category_ids, tmp_path) == pytest.approx(0.752, abs=0.01)


def test_without_ids_categories_count_from_one(tmp_path):
    records, _ = written(tmp_path, None, (3, 4))
    assert [r["category_id"] for r in records] == [1, 1, 2] and records[0]["image_id"] == 3


def test_names_that_the_file_lacks_are_left_out_and_counted(tmp_path, caplog):
    """`also_ask` asks for names that no category id stands for."""
    records, _ = written(tmp_path, (90,), (3, 4))
    assert [r["category_id"] for r in records] == [90, 90]
    assert "1x prediction of a class that its file does not have, left out" in caplog.text


def test_nothing_is_kept_without_a_folder():
    callback = Predictions()
    callback.start()
    box = [[0.0, 0.0, 1.0, 1.0]]
    callback.see(None, [found(box, [1.0], [0])], batch_of([truth(0, 1, box, [0])]))
    callback.finish(SimpleNamespace(is_global_zero=True), None)
    assert not callback._records
