"""Mask retrieval: which plane fills which sub-pixel of which image."""

from __future__ import annotations

import pytest
import torch

from ufo.head.retrieval import retrieve_masks


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("side", [1, 2, 4])
def test_every_subpixel_is_its_scaled_dot_product(side):
    features = torch.randn(1, 3, 5, 8)
    embeddings = torch.randn(2, side * side, 8)
    masks = retrieve_masks(embeddings, features, [2])
    assert masks.shape == (2, 3 * side, 5 * side)
    for k in range(side * side):
        for y, x in ((0, 0), (2, 1), (1, 4)):
            expected = (embeddings[1, k] * features[0, y, x]).sum() / 8**0.5
            found = masks[1, side * y + k // side, side * x + k % side]
            torch.testing.assert_close(found, expected)


def test_masks_find_the_features_of_their_own_image():
    features = torch.randn(4, 2, 2, 6)
    embeddings = torch.randn(5, 4, 6)
    counts = [2, 0, 3, 0]
    together = retrieve_masks(embeddings, features, counts)
    first = retrieve_masks(embeddings[:2], features[:1], [2])
    third = retrieve_masks(embeddings[2:], features[2:3], [3])
    torch.testing.assert_close(together, torch.cat([first, third]))


def test_no_masks_at_all():
    masks = retrieve_masks(torch.randn(0, 4, 6), torch.randn(2, 3, 3, 6), [0, 0])
    assert masks.shape == (0, 6, 6)


def test_logits_are_float32_whatever_the_features():
    features, embeddings = torch.randn(1, 2, 2, 8), torch.randn(1, 4, 8)
    half = retrieve_masks(embeddings.bfloat16(), features.bfloat16(), [1])
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, retrieve_masks(embeddings, features, [1]), atol=5e-2, rtol=0)


@pytest.mark.parametrize("mixed", [False, True])
def test_large_states_do_not_overflow_in_float16(mixed):
    """A dot product of 768 channels exceeds 65504 before it is scaled: the states of a ViT have no norm."""
    features, embeddings = (12 * torch.randn(*shape, 768) for shape in ((1, 2, 2), (1, 4)))
    features[0, 1, 0] = embeddings[0, 2]
    whole = retrieve_masks(embeddings, features, [1])
    assert whole.max() > 65504 / 768**0.5
    with torch.autocast("cpu", torch.float16, enabled=mixed):
        given = (embeddings, features) if mixed else (embeddings.half(), features.half())
        torch.testing.assert_close(retrieve_masks(*given, [1]), whole, atol=1.0, rtol=1e-3)


def test_gradients_reach_masks_and_features():
    features = torch.randn(2, 2, 2, 6, requires_grad=True)
    embeddings = torch.randn(1, 4, 6, requires_grad=True)
    retrieve_masks(embeddings, features, [0, 1]).sum().backward()
    assert embeddings.grad.abs().min() > 0
    assert features.grad[0].eq(0).all() and features.grad[1].abs().max() > 0


def test_counts_that_do_not_add_up_are_an_error():
    with pytest.raises(RuntimeError):
        retrieve_masks(torch.randn(3, 4, 6), torch.randn(2, 2, 2, 6), [1, 1])
