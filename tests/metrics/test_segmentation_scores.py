"""Data-set histograms against torchmetrics and against counting by hand."""

import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from ufo.metrics.mean_iou import SegmentationScores
from ufo.ops.overlap import class_histograms
from ufo.types import IGNORE

C = 6


def random_maps(seed: int = 0, n: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Maps of different sizes; class 4 is only predicted, class 5 occurs nowhere."""
    g = torch.Generator().manual_seed(seed)
    maps = []
    for i in range(n):
        size = (20 + 3 * i, 31 - 2 * i)
        target = torch.randint(0, 4, size, generator=g)
        right = torch.rand(size, generator=g) < 0.6
        prediction = torch.where(right, target, torch.randint(0, 5, size, generator=g))
        target[torch.rand(size, generator=g) < 0.1] = IGNORE
        maps.append((prediction, target.to(torch.uint8)))
    return maps


def scores_of(maps: list) -> dict[str, float]:
    metric = SegmentationScores(C)
    for prediction, target in maps:
        metric.update(class_histograms(prediction, target, C, IGNORE))
    return {name: float(value) for name, value in metric.compute().items()}


def test_scores__equal_torchmetrics():
    maps = random_maps()
    prediction = torch.cat([p.flatten() for p, _ in maps])
    target = torch.cat([t.flatten().long() for _, t in maps])
    iou = MulticlassJaccardIndex(C, average="none", ignore_index=IGNORE)(prediction, target)
    pixel = MulticlassAccuracy(C, average="micro", ignore_index=IGNORE)(prediction, target)
    recall = MulticlassAccuracy(C, average="none", ignore_index=IGNORE)(prediction, target)
    scores = scores_of(maps)
    # class 4 counts as IoU 0, for it was predicted; it has no accuracy, for it was not annotated
    assert scores["mIoU"] == pytest.approx(float(iou[:5].mean()), abs=1e-6)
    assert scores["aAcc"] == pytest.approx(float(pixel), abs=1e-6)
    assert scores["mAcc"] == pytest.approx(float(recall[:4].mean()), abs=1e-6)


def test_scores__are_of_the_data_set_not_of_images():
    one = (torch.zeros(10, 10, dtype=torch.int64), torch.zeros(10, 10, dtype=torch.uint8))
    two = (torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1, dtype=torch.uint8))
    # class 0: 100 of 101 pixels; class 1: 0 of 1. Per image it would be (1 + 0) / 2.
    assert scores_of([one, two])["mIoU"] == pytest.approx((100 / 101 + 0) / 2)


def test_scores__perfect_and_absent_classes():
    maps = [(torch.where(t == IGNORE, 5, t.long()), t) for _, t in random_maps()]
    assert scores_of(maps) == {"mIoU": 1, "aAcc": 1, "mAcc": 1}


def test_scores__nothing_counted_gives_zero():
    ignored = torch.full((4, 4), IGNORE, dtype=torch.uint8)
    assert scores_of([(torch.zeros(4, 4, dtype=torch.int64), ignored)])["mIoU"] == 0


def test_histograms__hand_counted():
    prediction = torch.tensor([[0, 1, 1], [2, 2, 0]])
    target = torch.tensor([[0, 1, 2], [2, IGNORE, 1]], dtype=torch.uint8)
    expected = [[1, 1, 1], [2, 2, 1], [1, 2, 2]]
    assert class_histograms(prediction, target, 3, IGNORE).tolist() == expected


def test_histograms__errors_say_what_to_do():
    zeros = torch.zeros(4, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match="original image's size"):
        class_histograms(zeros, torch.zeros(4, 5, dtype=torch.uint8), 3, IGNORE)
    with pytest.raises(ValueError, match="annotated map holds class 7"):
        class_histograms(zeros, torch.full((4, 4), 7, dtype=torch.uint8), 3, IGNORE)
    with pytest.raises(ValueError, match="predicted map holds class 3"):
        class_histograms(zeros + 3, zeros.to(torch.uint8), 3, IGNORE)
