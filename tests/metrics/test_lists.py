"""Metrics of predictions in memory, as dicts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from metric_examples import CLASSES, boxes_of, masks_of

from ufo.metrics.box_map import BoxMAP
from ufo.metrics.caption import CaptionScores
from ufo.metrics.grounding import GroundingAccuracy
from ufo.metrics.lists import measure
from ufo.metrics.mask_map import MaskMAP
from ufo.metrics.mean_iou import MeanIoU
from ufo.ops.masks import rle_encode
from ufo.types import IGNORE, Prediction, Target


def truth(images: int = 3) -> list[dict]:
    """Torchvision's targets: boxes, labels and masks."""
    found = []
    for image in range(images):
        boxes = boxes_of(3, torch.Generator().manual_seed(image)).round()
        found.append({"boxes": boxes, "labels": torch.tensor([0, 1, 3]), "masks": masks_of(boxes)})
    return found


def said(targets: list[dict]) -> list[dict]:
    return [{**target, "scores": torch.tensor([0.9, 0.8, 0.7])} for target in targets]


@pytest.mark.parametrize("metric", [BoxMAP, MaskMAP])
def test_what_is_right_scores_one_in_any_form(metric):
    targets = truth()
    plain = [{key: value.tolist() for key, value in target.items() if key != "masks"} for target in targets]
    for target, lists in zip(targets, plain, strict=True):
        lists["masks"] = target["masks"].numpy()
    assert measure(metric(), said(targets), targets, CLASSES)["mAP"] == 1
    assert measure(metric(), said(plain), plain, CLASSES)["mAP"] == 1
    rles = [{**target, "masks": rle_encode(target["masks"])} for target in targets]
    stacked = [{**found, "masks": list(found["masks"])} for found in said(targets)]
    assert measure(metric(), said(rles), rles, CLASSES)["mAP"] == 1
    assert measure(metric(), stacked, targets, CLASSES)["mAP"] == 1
    records = [Prediction("detection", **found) for found in said(targets)]
    values = measure(metric(per_class=True), records, targets, CLASSES)
    assert values["mAP"] == 1 and values["mAP/zero"] == 1 and values["mAP/two"] is None


def test_numbers_are_those_of_the_metric_and_images_may_be_empty():
    targets = truth()
    nothing: dict = {"boxes": [], "scores": [], "labels": []}
    values = measure(BoxMAP(), [*said(targets[:2]), nothing], targets, CLASSES)
    assert 0.6 < values["mAP"] < 0.7
    empty: dict = {"boxes": [], "labels": []}
    assert measure(BoxMAP(), [nothing], [empty], CLASSES)["mAP"] is None


def test_maps_captions_and_referred_boxes():
    true = np.array([[0, 1], [2, IGNORE]], np.uint8)
    assert measure(MeanIoU(), [{"semantic": [[0, 1], [2, 0]]}], [{"semantic": true}], CLASSES)["mIoU"] == 1
    said = [{"text": "A red cat sits on the mat."}]
    scores = measure(CaptionScores(), said, [{"captions": ["a red cat sits on the mat", "a cat"]}])
    assert scores["BLEU-4"] == pytest.approx(1) and scores["ROUGE-L"] == pytest.approx(1)
    box = {"boxes": [[1, 2, 30, 40]]}
    assert measure(GroundingAccuracy(), [{**box, "scores": [1]}], [box])["Acc@0.5"] == 1


def test_targets_of_an_evaluation_are_taken_as_they_are():
    target = Target(id=7, size=(48, 64), boxes=truth(1)[0]["boxes"], labels=torch.tensor([0, 1, 3]))
    assert measure(BoxMAP(), said(truth(1)), [target], CLASSES)["mAP"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"boxes": [[50, 60, 20, 30]] * 3},
            "image 0: boxes are x1, y1, x2, y2, and 50, 60, 20, 30 is not; .*'xywh'",
        ),
        ({"boxes": [[0.1, 0.2, 0.3, 0.4]] * 3}, "predicted boxes go to 0.4 .* both in pixels"),
        ({"boxes": [1, 2, 3, 4]}, r"boxes are \[N, 4\], not \[4\]"),
        ({"score": [1]}, "a prediction has no 'score'; did you mean 'scores'"),
        ({"labels": [0, 1, 9]}, "labels go from 0 to 9 but there are 4 classes"),
        ({"masks": torch.zeros(3, 1, 48, 64)}, r"masks\[:, 0\] > 0.5"),
        ({"masks": torch.zeros(3, 48, 64)}, "masks > 0.5"),
    ],
)
def test_what_is_wrong_is_said_with_its_image(change, words):
    targets = truth(1)
    with pytest.raises(ValueError, match=words):
        measure(BoxMAP(), [{**said(targets)[0], **change}], targets, CLASSES)


def test_lists_must_fit():
    with pytest.raises(ValueError, match="1 predictions for 2 targets; give one per image"):
        measure(BoxMAP(), said(truth(1)), truth(2), CLASSES)
    with pytest.raises(ValueError, match=r"classes=\['cat'\]"):
        measure(BoxMAP(), [], [], "cat")
