"""AP and calibration under every score of a task, from predictions that carry them."""

from __future__ import annotations

import json
from types import SimpleNamespace

import PIL.Image
import pytest
import torch

from ufo.callbacks.scores import ScoreTable, text
from ufo.metrics.coco_ap import CocoAP
from ufo.ops.masks import rle_encode
from ufo.types import Batch, Prediction, Target

CLASSES = ("owl", "heron")
SIZE = (40, 60)


def boxes(*corners):
    return torch.tensor([[x, y, x + 12.0, y + 12.0] for x, y in corners])


def masks_of(some):
    masks = torch.zeros(len(some), *SIZE, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, some.long().tolist(), strict=True):
        mask[y1:y2, x1:x2] = True
    return masks


def example(task: str, number: int):
    """Two objects, of which one is found; `good` scores prefer it, `bad` ones what is wrong."""
    true, found = boxes((2, 2), (30, 20)), boxes((2, 3), (15, 20))
    scores = {"first": [0.4, 0.9], "sequence": [0.6, 0.5], "quality": [0.9, 0.2]}
    of_masks = {} if task in ("detection", "grounding") else {"masks": masks_of(found)}
    referred = task in ("grounding", "referring_segmentation")
    labels = {} if referred else {"labels": torch.tensor([0, 1]), "classes": CLASSES}

    def prediction(values):
        one = Prediction(task, found, torch.tensor(values), rows=torch.tensor([0, 1]), **of_masks, **labels)
        return one

    under = {name: prediction(values) for name, values in scores.items()}
    target = Target(number, SIZE, boxes=true, labels=torch.tensor([0, 1]), masks=rle_encode(masks_of(true)))
    whole = prediction(scores["first"])
    whole.under = under
    return whole, target


def batch_of(task: str, targets):
    images = torch.zeros(len(targets), 3, 8, 8, dtype=torch.uint8)
    return Batch(task, f"own/{task}", CLASSES, images, [""] * len(targets), targets=targets)


def evaluated(task: str, folder=None, images: int = 3) -> ScoreTable:
    table = ScoreTable(folder)
    predictions, targets = zip(*(example(task, i) for i in range(images)), strict=True)
    table.start()
    table.see(None, list(predictions), batch_of(task, list(targets)))
    table.see(None, list(predictions), batch_of(task, list(targets)))  # repeats of a sampler count once
    table.finish(SimpleNamespace(is_global_zero=True, world_size=1), None)
    return table


@pytest.mark.parametrize("task", ["detection", "instance_segmentation", "grounding"])
def test_each_score_has_the_ap_of_its_own_order(task):
    columns = evaluated(task).columns[f"own/{task}"]
    assert list(columns) == ["constant", "first", "sequence", "quality"]
    values = {name: column.values for name, column in columns.items()}
    if task == "grounding":  # one class: the order decides
        assert values["quality"]["mAP50"] > values["first"]["mAP50"]
    metric = CocoAP("segm" if task == "instance_segmentation" else "bbox", CLASSES)
    for i in range(3):
        prediction, target = example(task, i)
        one = prediction.under["quality"]
        shapes = one.boxes if one.masks is None else rle_encode(one.masks)
        wanted = target.boxes if one.masks is None else target.masks
        labels = torch.tensor([0, 1])
        if task != "grounding":
            metric.update(shapes, one.scores, labels, wanted, labels)
    if task != "grounding":
        assert values["quality"]["mAP"] == pytest.approx(float(metric.compute()["mAP"]))


def test_calibration_counts_every_object_once():
    column = evaluated("detection").columns["own/detection"]["quality"]
    assert sorted(column.scores.tolist()) == pytest.approx([0.2] * 3 + [0.9] * 3)
    assert column.right.sum() == 3 and column.images.unique().tolist() == [0, 1, 2]
    assert column.values["ECE"] == pytest.approx((3 * 0.1 + 3 * 0.2) / 6, abs=1e-6)
    assert column.values["Brier"] == pytest.approx((0.01 + 0.04) / 2, abs=1e-6)


def test_all_masks_of_a_text_are_one_object():
    columns = evaluated("referring_segmentation").columns["own/referring_segmentation"]
    assert len(columns["quality"].scores) == 3
    assert columns["quality"].scores.tolist() == pytest.approx([0.55] * 3)


def test_table_and_diagram_are_written(tmp_path, capsys):
    table = evaluated("detection", tmp_path)
    assert text(table.columns) in capsys.readouterr().out
    content = json.loads((tmp_path / "scores.json").read_text())["own/detection"]
    assert set(content["first"]) == {"mAP", "mAP50", "mAP75", "ECE", "Brier", "bins"}
    with PIL.Image.open(tmp_path / "reliability" / "own_detection.png") as diagram:
        assert diagram.width > 1000


def test_predictions_that_were_not_compared_are_named():
    table = ScoreTable()
    prediction, target = example("detection", 0)
    prediction.under = None
    with pytest.raises(ValueError, match="under other scores"):
        table.collect([prediction], batch_of("detection", [target]))
    assert not table.scores("caption") and table.scores("grounding")
