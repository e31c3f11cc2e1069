"""cIoU and gIoU against a direct count, empty masks, ignored pixels, best of sentences."""

from __future__ import annotations

import pytest
import torch

from ufo.metrics.reasoning import ReasoningIoU
from ufo.metrics.referring import ReferringIoU
from ufo.ops.overlap import mask_overlap


def masks(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 9, 7, generator=torch.Generator().manual_seed(seed)) > 0.6


def scores(predicted: torch.Tensor, wanted: torch.Tensor) -> dict[str, float]:
    metric = ReferringIoU()
    for p, w in zip(predicted, wanted, strict=True):
        metric.update(mask_overlap(p, w))
    return {k: float(v) for k, v in metric.compute().items()}


def test_values_equal_a_direct_count():
    predicted, wanted = masks(5), masks(5, seed=1)
    predicted[2] = False
    pairs = [(int((p & w).sum()), int((p | w).sum())) for p, w in zip(predicted, wanted, strict=True)]
    found = scores(predicted, wanted)
    assert found["cIoU"] == pytest.approx(sum(i for i, _ in pairs) / sum(u for _, u in pairs), abs=1e-12)
    assert found["gIoU"] == pytest.approx(sum(i / (u + 1e-5) for i, u in pairs) / 5, abs=1e-12)
    assert found["cIoU"] != pytest.approx(found["gIoU"], abs=1e-3)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")  # of no masks at all, which it says
def test_nothing_to_find():
    nothing, something = torch.zeros(1, 9, 7, dtype=torch.bool), masks(1)
    assert scores(nothing, nothing) == {"cIoU": 0, "gIoU": 1}
    assert scores(something, nothing) == {"cIoU": 0, "gIoU": 0}
    assert scores(nothing[:0], nothing[:0]) == {"cIoU": 0, "gIoU": 0}


def test_ignored_pixels_count_neither_as_found_nor_as_missed():
    wanted, found, ignore = torch.zeros(3, 4, 4, dtype=torch.bool).unbind()
    wanted[:2], found[1:3], ignore[2] = True, True, True
    assert mask_overlap(found, wanted, ignore).tolist() == [4, 8]
    assert mask_overlap(found, wanted).tolist() == [4, 12]


def test_masks_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"\(4, 5\).*\(5, 4\).*original image's size"):
        mask_overlap(torch.zeros(4, 5), torch.zeros(5, 4))


def test_sums_of_processes_add_up():
    predicted, wanted = masks(6), masks(6, seed=1)
    parts = [ReferringIoU(), ReferringIoU()]
    for i, (p, w) in enumerate(zip(predicted, wanted, strict=True)):
        parts[i % 2].update(mask_overlap(p, w))
    states = [{k: getattr(m, k) for k in m._defaults} for m in parts]
    whole = ReferringIoU()
    for name in whole._defaults:
        setattr(whole, name, states[0][name] + states[1][name])
    whole._update_count = 1
    assert {k: float(v) for k, v in whole.compute().items()} == scores(predicted, wanted)


def test_reasoning_counts_texts_kinds_and_the_best_of_each_image():
    metric = ReasoningIoU()
    texts = [(50, 100, "a", False), (80, 100, "a", True), (80, 100, "a", True), (10, 40, "b", True)]
    for intersection, union, image, sentence in texts:
        metric.update(torch.tensor([intersection, union]), image, sentence)
    found = {k: round(float(v), 4) for k, v in metric.compute().items()}
    assert found["gIoU"] == round((0.5 + 0.8 + 0.8 + 0.25) / 4, 4)
    assert found["cIoU"] == round(220 / 340, 4)
    assert found["gIoU_best_of_sentences"] == round((0.8 + 0.25) / 2, 4)
    assert found["cIoU_best_of_sentences"] == round(90 / 140, 4)
    assert found["gIoU_short"] == found["gIoU_short_best_of_sentences"] == 0.5
    assert found["gIoU_long"] == round((0.8 + 0.8 + 0.25) / 3, 4)
    assert found["gIoU_long_best_of_sentences"] == found["gIoU_best_of_sentences"]


def test_reasoning_without_kinds_has_no_splits():
    metric = ReasoningIoU()
    metric.update(torch.tensor([0, 0]), "a", None)
    assert {k: float(v) for k, v in metric.compute().items()} == {
        "cIoU": 0,
        "gIoU": 1,
        "cIoU_best_of_sentences": 0,
        "gIoU_best_of_sentences": 1,
    }
