"""Against plain-Python implementations of the papers' definitions, one candidate at a time."""

import math

import pytest
import torch

from ufo.ops.nms import mask_iou, matrix_nms, soft_nms


def iou(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    return overlap / union if union else 0.0


def slow_soft_nms(boxes, scores, labels, threshold, sigma, min_score, method):
    boxes, labels = boxes.tolist(), labels.tolist()
    left = {i: s for i, s in enumerate(scores.tolist()) if s >= min_score}
    kept = []
    while left:
        best = max(left, key=left.get)
        kept.append((best, left.pop(best)))
        for other in list(left):
            overlap = iou(boxes[best], boxes[other]) if labels[best] == labels[other] else 0.0
            if method == "gaussian":
                left[other] *= math.exp(-(overlap**2) / sigma)
            elif overlap >= threshold:
                left[other] *= 1 - overlap if method == "linear" else 0
            if left[other] < min_score:
                del left[other]
    return [i for i, _ in kept], [s for _, s in kept]


def candidates(seed: int, count: int = 40):
    generator = torch.Generator().manual_seed(seed)
    corner = 60 * torch.rand(count, 2, generator=generator)
    extent = 10 + 40 * torch.rand(count, 2, generator=generator)
    scores = torch.rand(count, generator=generator)
    labels = torch.randint(0, 3, (count,), generator=generator)
    return torch.cat([corner, corner + extent], 1), scores, labels


@pytest.mark.parametrize("method", ["linear", "gaussian", "naive"])
@pytest.mark.parametrize("seed", range(5))
def test_soft_nms_equals_the_slow_one(method, seed):
    boxes, scores, labels = candidates(seed)
    arguments = {"iou_threshold": 0.3, "sigma": 0.4, "min_score": 0.05, "method": method}
    keep, decayed = soft_nms(boxes, scores, labels, **arguments)
    expected, expected_scores = slow_soft_nms(boxes, scores, labels, 0.3, 0.4, 0.05, method)
    assert len(expected) < len(boxes)  # something is suppressed at all
    assert keep.tolist() == expected
    torch.testing.assert_close(decayed, torch.tensor(expected_scores), atol=1e-5, rtol=0)


def test_soft_nms_edge_cases():
    keep, decayed = soft_nms(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long())
    assert keep.shape == decayed.shape == (0,) and keep.dtype == torch.int64
    box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    twins, labels = box.repeat(2, 1), torch.tensor([0, 0])
    assert soft_nms(twins, torch.tensor([0.5, 0.9]), labels)[0].tolist() == [1]
    other_class = soft_nms(twins, torch.tensor([0.5, 0.9]), torch.tensor([0, 1]))
    assert other_class[0].tolist() == [1, 0]
    points = torch.zeros(2, 4)  # no area: no overlap, and no NaN
    assert soft_nms(points, torch.tensor([0.5, 0.9]), labels, method="gaussian")[0].tolist() == [
        1,
        0,
    ]
    assert soft_nms(box, torch.tensor([1e-4]), labels[:1])[0].tolist() == []
    with pytest.raises(ValueError, match="linear, gaussian and naive"):
        soft_nms(box, torch.ones(1), labels[:1], method="hard")


def slow_matrix_nms(masks, labels, scores, kernel, sigma, threshold):
    order = sorted(range(len(scores)), key=lambda i: -float(scores[i]))

    def overlap(i: int, j: int) -> float:
        if labels[i] != labels[j]:
            return 0.0
        union = (masks[i] | masks[j]).sum().item()
        return (masks[i] & masks[j]).sum().item() / union if union else 0.0

    def f(value: float) -> float:
        return math.exp(-sigma * value**2) if kernel == "gaussian" else 1 - value

    result = []
    for place, j in enumerate(order):
        decay = 1.0
        for better, i in enumerate(order[:place]):
            covered = max((overlap(k, i) for k in order[:better]), default=0.0)
            decay = min(decay, f(overlap(i, j)) / f(covered))
        result.append((j, float(scores[j]) * decay))
    result = sorted((r for r in result if r[1] >= threshold), key=lambda r: -r[1])
    return [i for i, _ in result], [s for _, s in result]


def random_masks(seed: int, count: int = 15) -> torch.Tensor:
    boxes = candidates(seed, count)[0]
    y, x = torch.arange(64)[:, None], torch.arange(80)
    x1, y1, x2, y2 = boxes[..., None, None].unbind(1)
    return (x >= x1) & (x < x2) & (y >= y1) & (y < y2)


@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
@pytest.mark.parametrize("seed", range(5))
def test_matrix_nms_equals_the_slow_one(kernel, seed):
    masks, (_, scores, labels) = random_masks(seed), candidates(seed, 15)
    keep, decayed = matrix_nms(masks, labels, scores, kernel=kernel, filter_threshold=0.2)
    expected, expected_scores = slow_matrix_nms(masks, labels, scores, kernel, 2.0, 0.2)
    assert keep.tolist() == expected
    torch.testing.assert_close(decayed, torch.tensor(expected_scores), atol=1e-5, rtol=0)


def test_matrix_nms_edge_cases():
    keep, decayed = matrix_nms(torch.zeros(0, 4, 5).bool(), torch.zeros(0).long(), torch.zeros(0))
    assert keep.shape == decayed.shape == (0,)
    triplets = random_masks(0, 1).repeat(3, 1, 1)
    scores, labels = torch.tensor([0.5, 0.9, 0.7]), torch.zeros(3).long()
    keep, decayed = matrix_nms(triplets, labels, scores, kernel="linear")
    assert keep.tolist() == [1] and decayed.tolist() == scores[1:2].tolist()
    empty = torch.zeros(2, 4, 5, dtype=torch.bool)
    assert matrix_nms(empty, labels[:2], scores[:2])[0].tolist() == [1, 0]
    with pytest.raises(ValueError, match="gaussian and the linear"):
        matrix_nms(triplets, labels, scores, kernel="cubic")


def test_mask_iou_is_exact_in_pieces_and_under_autocast(monkeypatch):
    masks = random_masks(3, 12)
    expected = torch.tensor([[(a & b).sum().item() / (a | b).sum().item() for b in masks] for a in masks])
    torch.testing.assert_close(mask_iou(masks), expected)
    monkeypatch.setattr("ufo.ops.nms._PIXELS_AT_ONCE", 12 * 100)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(mask_iou(masks), expected)


@pytest.mark.parametrize("noise", [False, True])
def test_mask_iou_of_runs_equals_that_of_pixels(noise, monkeypatch):
    """Both ways of counting, on shapes and on noise; an empty mask overlaps nothing."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(9, 40, 50, generator=generator) > 0.5
    if not noise:
        axis = torch.arange(50.0)
        masks &= ((axis[:40, None] - 20) ** 2 + (axis - 4 * torch.arange(9)[:, None, None]) ** 2) < 200
    masks[4] = False
    found = {}
    for pixels in (1e-9, 1e9):
        monkeypatch.setattr("ufo.ops.nms._PIXELS_PER_RUN", pixels)
        found[pixels] = mask_iou(masks)
    torch.testing.assert_close(found[1e-9], found[1e9], rtol=1e-6, atol=0)
    assert not found[1e9][4].any()
