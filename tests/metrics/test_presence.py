"""What a detection says of classes that are not there."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule
from torchmetrics.functional.classification import binary_matthews_corrcoef
from trainers import quiet_trainer

from ufo.metrics.coco_ap import CocoAP
from ufo.metrics.presence import PresenceAccuracy, PresenceScores

CLASSES = ("owl", "dog", "cat")
BOX = torch.tensor([[2.0, 2, 12, 14]])


def image(found, meant, crowd=()):
    """Detections (label, score) and annotated labels, all with the same box; crowd annotations last."""
    labels = torch.tensor([label for label, _ in found], dtype=torch.int64)
    scores = torch.tensor([score for _, score in found])
    annotated = torch.tensor([*meant, *crowd], dtype=torch.int64)
    iscrowd = torch.tensor([False] * len(meant) + [True] * len(crowd), dtype=torch.bool)
    return BOX.expand(len(found), 4), scores, labels, BOX.expand(len(annotated), 4), annotated, iscrowd


IMAGES = [
    image([(0, 0.9), (1, 0.8)], [0]),  # an invented dog
    image([(2, 0.4)], [2, 1]),  # a missed dog
    image([(1, 0.2)], []),  # below the threshold
    image([(0, 0.7), (2, 0.9)], [0], crowd=[2]),  # nobody asks whether there is a cat
]


def measured(images, threshold=0.3):
    metric = PresenceAccuracy(CLASSES, threshold)
    for one in images:
        metric.update(*one)
    return {name: float(value) for name, value in metric.compute().items()}


def test_presence_is_counted_by_image_and_class():
    found = measured(IMAGES)
    # owl, dog, cat of each image, without the crowded cat
    answered = [1, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0]
    annotated = [1, 0, 0, 0, 1, 1, 0, 0, 0, 1, 0]
    expected = binary_matthews_corrcoef(torch.tensor(answered), torch.tensor(annotated))
    assert found["MCC"] == pytest.approx(float(expected))
    assert found["false_boxes"] == 1 / 4


@pytest.mark.parametrize(("threshold", "boxes"), [(0.1, 2 / 4), (0.3, 1 / 4), (0.85, 0)])
def test_the_threshold_decides_which_boxes_count(threshold, boxes):
    assert measured(IMAGES, threshold)["false_boxes"] == boxes


def test_the_ap_of_what_is_there_forgets_what_is_not():
    """Equal to the mAP of the detections of classes that are there, and higher than that of all."""
    whole, there = CocoAP("bbox", CLASSES), CocoAP("bbox", CLASSES)
    for boxes, scores, labels, *annotated in IMAGES:
        whole.update(boxes, scores, labels, *annotated)
        kept = torch.isin(labels, annotated[1])
        there.update(boxes[kept], scores[kept], labels[kept], *annotated)
    # a detection before the right one costs AP
    extra = image([(0, 0.99)], [])
    whole.update(*extra)
    there.update(*(value[:0] for value in extra[:3]), *extra[3:])
    found = measured([*IMAGES, extra])["mAP_there"]
    assert found == pytest.approx(float(there.compute()["mAP"]))
    assert found > float(whole.compute()["mAP"])


@pytest.mark.parametrize("meant", [[], [0, 1, 2]])
def test_no_correlation_where_nothing_or_everything_is_there(meant):
    assert torch.isnan(torch.tensor(measured([image([(0, 0.9)], meant)])["MCC"]))


def test_an_answer_that_never_changes_has_no_correlation():
    assert measured([image([], [0]), image([], [1])])["MCC"] == 0


def test_names_that_were_never_asked_for_in_training_are_counted_apart():
    """They change nothing of what is measured on the others."""
    asked = [*CLASSES, "lamp"]
    invented = image([(3, 0.9), (3, 0.35), (3, 0.1)], [])
    metric, known = PresenceAccuracy(asked, 0.3, unseen=["lamp"]), PresenceAccuracy(CLASSES, 0.3)
    for one in [*IMAGES, invented]:
        metric.update(*one)
        known.update(*(one if one is not invented else image([], [])))
    found, others = ({k: float(v) for k, v in m.compute().items()} for m in (metric, known))
    assert found.pop("unseen_boxes") == 2 / 5
    assert math.isnan(others.pop("unseen_boxes"))  # nobody asked
    assert found == pytest.approx(others)


def test_the_model_tells_which_names_it_has_been_trained_with():
    class Trained(LightningModule):
        model = SimpleNamespace(classes={"detection": ("Owl", "dog"), "instance_segmentation": ("cat",)})

    metric = PresenceScores()
    assert bool(metric.make_metric(("owl", "lamp")).known.all())  # nobody knows
    metric.setup(quiet_trainer(callbacks=[metric]), Trained(), "validate")
    assert metric.make_metric(("owl", "cat", "lamp")).known.tolist() == [True, True, False]
    assert metric.numbers == ("MCC", "false_boxes", "unseen_boxes", "mAP_there")
