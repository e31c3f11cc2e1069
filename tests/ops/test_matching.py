from itertools import permutations

import pytest
import torch

from ufo.ops.matching import assign, assignment_cost, hungarian, sample_per_window

SIZE = (40, 80)


def brute_force(cost: torch.Tensor) -> float:
    """Smallest total over all one-to-one assignments of the shorter side."""
    if cost.shape[0] < cost.shape[1]:
        cost = cost.T
    rows, columns = cost.shape
    return min(
        sum(float(cost[r, c]) for c, r in enumerate(chosen)) for chosen in permutations(range(rows), columns)
    )


@pytest.mark.parametrize("queries, objects", [(5, 3), (4, 4), (3, 5), (1, 4)])
def test_hungarian_is_one_to_one_and_optimal(queries, objects):
    for seed in range(10):
        cost = torch.rand(queries, objects, generator=torch.Generator().manual_seed(seed))
        matched = hungarian(cost)
        used = matched[matched >= 0]
        assert len(used) == len(used.unique()) == min(queries, objects)
        total = cost[matched >= 0, used].sum().item()
        assert total == pytest.approx(brute_force(cost), abs=1e-5)


def test_hungarian_of_nothing():
    assert hungarian(torch.zeros(4, 0)).tolist() == [-1] * 4
    assert hungarian(torch.zeros(0, 4)).shape == (0,)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_hungarian_refuses_what_it_cannot_compare(value):
    with pytest.raises(ValueError, match="NaN or infinite"):
        hungarian(torch.tensor([[1.0, value], [2.0, 3.0]]))


def test_cost_terms():
    points = torch.tensor([[0.25, 0.5], [0.999, 0.999]])
    boxes = torch.tensor([[0.0, 0.0, 40.0, 20.0]])  # centre (.25, .25)
    distance = assignment_cost(points, boxes, SIZE)
    torch.testing.assert_close(distance, torch.tensor([[1.25], [5 * (0.749 + 0.749)]]))
    masks = torch.zeros(1, *SIZE, dtype=torch.uint8)
    masks[0, 20, 20] = 1  # exactly the pixel under the first point
    masked = assignment_cost(points, boxes, SIZE, masks)
    torch.testing.assert_close(masked - distance, torch.tensor([[0.0], [100.0]]))
    noise = torch.rand(2, 1)
    noisy = assignment_cost(points, boxes, SIZE, masks, noise=noise)
    torch.testing.assert_close(noisy - masked, noise, atol=1e-4, rtol=0)


def test_cost_truncates_coordinates():
    masks = torch.zeros(1, *SIZE, dtype=torch.bool)
    masks[0, 10, 30] = True
    point = torch.tensor([[30.9 / 80, 10.9 / 40]])
    boxes = torch.tensor([[30.0, 10.0, 31.0, 11.0]])
    assert assignment_cost(point, boxes, SIZE, masks).item() < 1
    edge = torch.ones(1, 2)  # lies on the border: the last pixel, not an error
    assert assignment_cost(edge, boxes, SIZE, masks).item() > 100


def test_assign_repeats_and_folds():
    points = torch.rand(30, 2, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[0.0, 0.0, 20.0, 20.0], [40.0, 10.0, 70.0, 30.0]])
    folded = assign(points, boxes, SIZE, repeat=3)
    assert torch.bincount(folded + 1).tolist() == [24, 3, 3]
    repeated = assign(points, boxes, SIZE, repeat=3, fold=False)
    assert sorted(repeated[repeated >= 0].tolist()) == list(range(6))
    assert torch.equal(repeated[repeated >= 0] % 2, folded[folded >= 0])
    # without a mask term the three nearest points of each object win
    cost = assignment_cost(points, boxes, SIZE)
    assert set((folded == 0).nonzero().flatten().tolist()) == set(
        cost[:, 0].topk(3, largest=False)[1].tolist()
    )


def test_assign_noise_differs_between_repetitions():
    points, boxes = torch.rand(4, 2), torch.tensor([[0.0, 0.0, 20.0, 20.0]])
    noise = 1000 * torch.ones(4, 2)
    noise[3, 0] = noise[1, 1] = 0
    assert assign(points, boxes, SIZE, repeat=2, fold=False, noise=noise).tolist() == [-1, 1, -1, 0]


def test_assign_without_objects():
    points = torch.rand(4, 2)
    masks = torch.zeros(0, *SIZE, dtype=torch.uint8)
    assert assign(points, torch.zeros(0, 4), SIZE, masks).tolist() == [-1] * 4


def make_windows() -> torch.Tensor:
    """A 6 x 8 grid cut into 2 x 2 windows of 3 x 4, row-major over the image."""
    rows, columns = torch.arange(6) // 3, torch.arange(8) // 4
    return (rows[:, None] * 2 + columns).flatten()


def scattered(*positives: int) -> torch.Tensor:
    assigned = torch.full((48,), -1)
    assigned[list(positives)] = 0
    return assigned


def test_sample_keeps_quota_of_every_window_and_positives_first():
    windows, quota = make_windows(), 5
    generator = torch.Generator().manual_seed(0)
    assigned = torch.where(torch.rand(7, 48, generator=generator) < 0.2, 3, -1)
    chosen = sample_per_window(assigned, windows, quota, generator).view(7, 4, quota)
    assert torch.equal(windows[chosen], torch.arange(4)[None, :, None].expand(7, 4, quota))
    for image in range(7):
        for window in range(4):
            picks = chosen[image, window].tolist()
            members = (windows == window).nonzero().flatten().tolist()
            positives = [q for q in members if assigned[image, q] >= 0]
            assert len(set(picks)) == quota
            if len(positives) <= quota:
                assert picks[: len(positives)] == positives
            else:
                assert set(picks) <= set(positives)


def test_sample_draws_uniformly():
    windows = make_windows()
    members = (windows == 0).nonzero().flatten()
    generator = torch.Generator().manual_seed(0)
    crowded = scattered(*members.tolist()[:8])[None].expand(4000, -1)
    kept = sample_per_window(crowded, windows, 4, generator)[:, :4]
    counts = torch.bincount(kept.flatten(), minlength=48)[members]
    assert counts[8:].sum() == 0  # positives fill the window
    assert (counts[:8] - 2000).abs().max() < 160  # five sigma
    first = torch.bincount(kept[:, 0], minlength=48)[members][:8]
    assert (first - 500).abs().max() < 110  # and come in random order
    sparse = scattered(int(members[5]))[None].expand(4000, -1)
    kept = sample_per_window(sparse, windows, 4, generator)[:, :4]
    counts = torch.bincount(kept.flatten(), minlength=48)[members]
    assert counts[5] == 4000
    others = torch.cat([counts[:5], counts[6:]])
    assert (others - 4000 * 3 / 11).abs().max() < 145


def test_sample_is_determined_by_its_generator():
    assigned = torch.full((2, 48), -1)
    draw = [
        sample_per_window(assigned, make_windows(), 5, torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2])
    state = torch.get_rng_state()
    sample_per_window(assigned, make_windows(), 5, torch.Generator().manual_seed(1))
    assert torch.equal(state, torch.get_rng_state())


def test_sample_of_everything_and_window_names():
    everything = sample_per_window(torch.full((1, 48), -1), make_windows() * 10 + 3, 12)
    assert sorted(everything[0].tolist()) == list(range(48))


def test_sample_errors():
    with pytest.raises(ValueError, match="cannot keep 13 of 12"):
        sample_per_window(torch.full((1, 48), -1), make_windows(), 13)
    with pytest.raises(ValueError, match="different numbers"):
        sample_per_window(torch.full((1, 3), -1), torch.tensor([0, 0, 1]), 1)
