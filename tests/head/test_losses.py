"""The three losses: against their formulas, and where there is nothing to learn from."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ufo.head.losses import mask_losses, mean_over_ranks, sampled_mask_losses, token_loss


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def count(learned: Tensor) -> Tensor:
    """The normaliser of one process that learns from these."""
    return mean_over_ranks(len(learned), torch.device("cpu"))


def test_token_loss_is_the_mean_negative_log_probability():
    hidden, embedding = torch.randn(7, 6), torch.randn(11, 6)
    targets = torch.randint(11, (7,))
    probability = (hidden @ embedding.T).softmax(-1)[range(7), targets]
    torch.testing.assert_close(
        token_loss(hidden, targets, embedding, count(targets)), -probability.log().mean()
    )


def test_token_loss_without_tokens_is_zero_and_connected():
    hidden = torch.randn(0, 6, requires_grad=True)
    embedding = torch.randn(11, 6, requires_grad=True)
    targets = torch.empty(0, dtype=torch.int64)
    loss = token_loss(hidden, targets, embedding, count(targets))
    loss.backward()
    assert loss == 0
    assert embedding.grad.eq(0).all()


def test_token_loss_of_half_precision_is_computed_in_float32():
    hidden, embedding = torch.randn(5, 8).bfloat16(), torch.randn(400, 8).bfloat16()
    targets = torch.randint(400, (5,))
    loss = token_loss(hidden, targets, embedding, count(targets))
    assert loss.dtype == torch.float32
    expected = token_loss(hidden.float(), targets, embedding.float(), count(targets))
    torch.testing.assert_close(loss, expected, rtol=2e-2, atol=0)


def rectangles(count: int = 3, size: int = 16) -> Tensor:
    masks = torch.zeros(count, size, size, dtype=torch.uint8)
    for i in range(count):
        masks[i, i : i + 6, 2 : 10 + i] = 1
    return masks


def every_pixel(size: int) -> Tensor:
    """Normalised centres of all pixels, row by row: `[size*size, 2]`."""
    centre = (torch.arange(size) + 0.5) / size
    return torch.stack(torch.meshgrid(centre, centre, indexing="xy"), -1).flatten(0, 1)


def test_mask_losses_are_their_formulas():
    """Sampled at every pixel, so that sampling drops out: focal .25/2 and naive dice with eps 1e-3."""
    masks, logits = rectangles(), torch.randn(3, 16, 16)
    points = every_pixel(16).expand(3, -1, -1)
    losses = mask_losses(logits, masks, points, torch.tensor(2.0))
    p, t = logits.sigmoid().flatten(1), masks.float().flatten(1)
    focal = -(0.25 * t * (1 - p) ** 2 * p.log() + 0.75 * (1 - t) * p**2 * (1 - p).log())
    dice = 1 - (2 * (p * t).sum(1) + 1e-3) / (p.sum(1) + t.sum(1) + 1e-3)
    torch.testing.assert_close(losses["focal"], focal.mean(1).sum() / 2)
    torch.testing.assert_close(losses["dice"], dice.sum() / 2)


def test_masks_may_have_a_finer_resolution_than_logits():
    coarse = torch.randn(2, 4, 4)
    masks = torch.zeros(2, 16, 16, dtype=torch.uint8)
    masks[:, :8] = 1
    points = torch.tensor([[[0.5, 0.25], [0.5, 0.75]]]).expand(2, -1, -1)
    losses = mask_losses(coarse, masks, points, torch.tensor(1.0))
    assert losses["focal"] > 0
    perfect = torch.where(masks[:, ::4, ::4] > 0, 30.0, -30.0)
    assert mask_losses(perfect, masks, points, torch.tensor(1.0))["dice"] < 1e-3


def test_the_right_mask_costs_nothing_and_the_wrong_one_much():
    masks = rectangles()
    right = torch.where(masks > 0, 20.0, -20.0)
    good = sampled_mask_losses(right, masks, 64, count(masks))
    bad = sampled_mask_losses(-right, masks, 64, count(masks))
    # not nothing: the most uncertain points lie on the outline, between right and wrong
    assert good["focal"] < 0.1 and bad["focal"] > 1
    assert good["dice"] < 0.3 and bad["dice"] > 0.7


def test_sampled_losses_follow_their_generator():
    masks, logits = rectangles(), torch.randn(3, 16, 16)

    def losses(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.stack(
            [*sampled_mask_losses(logits, masks, 20, count(masks), generator=generator).values()]
        )

    assert torch.equal(losses(1), losses(1))
    assert not torch.equal(losses(1), losses(2))


def test_without_masks_the_losses_are_zero_and_connected():
    features = torch.randn(2, 4, 4, requires_grad=True)
    masks = torch.zeros(0, 16, 16, dtype=torch.uint8)
    losses = sampled_mask_losses(features[:0], masks, 20, count(masks))
    sum(losses.values()).backward()
    assert all(v == 0 for v in losses.values())
    assert features.grad.eq(0).all()


def test_empty_and_full_masks_give_finite_gradients():
    masks = torch.stack([torch.zeros(8, 8), torch.ones(8, 8)]).to(torch.uint8)
    logits = torch.full((2, 8, 8), 50.0, requires_grad=True)
    sum(sampled_mask_losses(logits, masks, 16, count(masks)).values()).backward()
    assert logits.grad.isfinite().all()


def test_nothing_found_where_nothing_is_costs_nothing():
    """The smoothing of dice decides here: 0 / 0 counts as agreement."""
    nothing = torch.zeros(1, 8, 8, dtype=torch.uint8)
    losses = sampled_mask_losses(torch.full((1, 8, 8), -50.0), nothing, 16, count(nothing))
    assert losses["dice"].abs() < 1e-6 and losses["focal"] < 1e-6


@pytest.mark.parametrize("learned, expected", [(0, 1), (1, 1), (7, 7)])
def test_normaliser_is_at_least_one_and_float32(learned, expected):
    number = mean_over_ranks(learned, torch.device("cpu"))
    assert number == expected and number.dtype == torch.float32
