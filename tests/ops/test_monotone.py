"""Maps of scores never change an order, and make probabilities of scores that promise too much."""

from __future__ import annotations

import pytest
import torch

from ufo.metrics.calibration import calibration, calibration_sums
from ufo.ops.monotone import apply_monotone, check_monotone, fit_monotone


def promising_too_much(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores, and whether each is right: of those at s a share of s^3."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(count, generator=generator)
    return scores, torch.rand(count, generator=generator) < scores**3


def ece(scores: torch.Tensor, right: torch.Tensor) -> float:
    return float(calibration(calibration_sums(scores, right))["ECE"])


def test_ece_falls_on_what_the_map_has_not_seen():
    points = fit_monotone(*promising_too_much(4000, 0))
    scores, right = promising_too_much(4000, 1)
    assert ece(scores, right) > 0.2
    assert ece(apply_monotone(points, scores), right) < 0.03


@pytest.mark.parametrize("right", ["none", "all", "random", "reversed"])
def test_an_order_stays_as_it_is(right):
    scores = torch.rand(500, generator=torch.Generator().manual_seed(2)).double()
    scores[:50] = scores[0]  # ties
    hits = {
        "none": torch.zeros(500),
        "all": torch.ones(500),
        "random": torch.rand(500) < 0.5,
        "reversed": scores < 0.5,
    }[right]
    points = fit_monotone(scores, hits.bool())
    check_monotone(points)
    mapped = apply_monotone(points, scores)
    assert ((mapped > 0) & (mapped < 1)).all()
    order = scores.argsort(stable=True)
    steps, before = mapped[order].diff(), scores[order].diff()
    assert (steps[before > 0] > 0).all() and (steps[before == 0] == 0).all()


def test_few_or_equal_scores_make_a_map_too():
    for scores in (torch.tensor([0.3]), torch.zeros(40), torch.ones(40), torch.full((40,), 0.5)):
        points = fit_monotone(scores, torch.arange(len(scores)) % 2 == 0)
        check_monotone(points)
        assert 0 < float(apply_monotone(points, scores)[0]) < 1


def test_a_map_is_a_line_through_its_points_in_any_precision():
    points = [[0.0, 0.0], [0.5, 0.1], [1.0, 0.9]]
    scores = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0, -0.5, 1.5])
    wanted = [0, 0.05, 0.1, 0.5, 0.9, 0, 0.9]
    assert apply_monotone(points, scores).tolist() == pytest.approx(wanted)
    half = apply_monotone(points, scores.bfloat16())
    assert half.dtype == torch.bfloat16 and half.tolist() == pytest.approx(wanted, abs=0.005)
