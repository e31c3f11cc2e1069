import pytest
import torch
import torch.nn.functional as F

from ufo.ops.points import Corners, point_sample, sample_uncertain_points


def test_pixel_centres_are_the_pixels():
    maps = torch.randn(3, 4, 6)
    y, x = torch.meshgrid(torch.arange(4), torch.arange(6), indexing="ij")
    points = torch.stack([(x + 0.5) / 6, (y + 0.5) / 4], -1).flatten(0, 1).expand(3, -1, -1)
    torch.testing.assert_close(point_sample(maps, points), maps.flatten(1), atol=1e-5, rtol=1e-5)


def test_between_pixels_and_outside():
    maps = torch.tensor([[[0.0, 1.0], [2.0, 3.0]]])
    points = torch.tensor([[[0.5, 0.5], [0.5, 0.25], [3.0, 3.0]]])
    torch.testing.assert_close(point_sample(maps, points), torch.tensor([[1.5, 0.5, 0.0]]))


def test_any_type_and_no_masks():
    mask = torch.ones(2, 4, 4, dtype=torch.uint8)
    assert point_sample(mask, torch.full((2, 5, 2), 0.5)).tolist() == [[1.0] * 5] * 2
    points = torch.rand(2, 5, 2)
    rounded = torch.randn(2, 4, 4).bfloat16()
    assert torch.equal(point_sample(rounded, points), point_sample(rounded.float(), points))
    assert point_sample(torch.zeros(0, 4, 4), torch.zeros(0, 5, 2)).shape == (0, 5)
    assert sample_uncertain_points(torch.zeros(0, 4, 4), 8).shape == (0, 8, 2)


def test_gradient_reaches_maps():
    maps = torch.randn(1, 4, 4, requires_grad=True)
    points = sample_uncertain_points(maps, 8)
    assert not points.requires_grad
    point_sample(maps, points).sum().backward()
    assert maps.grad.abs().sum() > 0


def test_uncertain_points_crowd_where_the_logit_is_small():
    ramp = torch.linspace(-4, 4, 64).expand(2, 64, 64)  # zero in the middle column
    generator = torch.Generator().manual_seed(0)
    points = sample_uncertain_points(ramp, 400, generator=generator)
    assert points.shape == (2, 400, 2) and points.min() >= 0 and points.max() <= 1
    distance = (points[..., 0] - 0.5).abs()
    # 300 of 1200 candidates: the quarter next to the middle; and 100 anywhere. In the outer half
    # pixel the zeros outside shrink the logit, so points there may lie farther off
    inner = (points[..., 1] - 0.5).abs() < 0.5 - 0.5 / 64
    assert distance[:, :300][inner[:, :300]].max() < 0.16
    assert inner[:, :300].float().mean() > 0.9
    assert distance[:, 300:].max() > 0.4
    everywhere = sample_uncertain_points(ramp, 400, importance=0.0, generator=generator)
    assert abs((everywhere[..., 0] - 0.5).abs().mean().item() - 0.25) < 0.03


@pytest.mark.parametrize("importance", [0.0, 0.75, 1.0])
@pytest.mark.parametrize("num_points", [1, 7, 512])
def test_number_of_points(importance, num_points):
    points = sample_uncertain_points(torch.randn(2, 8, 8), num_points, importance=importance)
    assert points.shape == (2, num_points, 2)


def test_points_are_determined_by_the_generator():
    logits = torch.randn(2, 8, 8)
    draw = [
        sample_uncertain_points(logits, 16, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(draw[0], draw[1]) and not torch.equal(draw[0], draw[2])


@pytest.mark.parametrize("arguments", [{"oversample": 0.5}, {"importance": 1.5}])
def test_impossible_settings(arguments):
    with pytest.raises(ValueError, match="point sampling"):
        sample_uncertain_points(torch.zeros(1, 4, 4), 8, **arguments)


def test_gathered_corners_are_grid_sample_and_its_gradient():
    """Also beyond the borders, on them, and where points coincide."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 5, 3, 7, dtype=torch.float64, generator=generator).requires_grad_()
    points = torch.rand(2, 40, 2, dtype=torch.float64, generator=generator) * 1.6 - 0.3
    border = torch.tensor([0.0, 0.1, 1 / 3, 0.5, 0.9, 1.0], dtype=torch.float64)
    edges = torch.cartesian_prod(border, border).expand(2, -1, -1)
    points = torch.cat([points, edges, edges[:, :5]], 1)
    expected = F.grid_sample(maps.permute(0, 3, 1, 2), 2 * points[:, None] - 1, align_corners=False)
    expected = expected[:, :, 0].transpose(1, 2)
    found = Corners.of(points, (5, 3)).sample(maps)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    weights = torch.randn(found.shape, dtype=torch.float64, generator=generator)
    gradients = [torch.autograd.grad((x * weights).sum(), maps)[0] for x in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def test_corners_of_low_precision_maps_keep_their_weights():
    maps, points = torch.randn(1, 4, 4, 3).bfloat16(), torch.rand(1, 9, 2)
    corners = Corners.of(points.bfloat16(), (4, 4))
    assert corners.weight.dtype == torch.float32
    corners = Corners.of(points, (4, 4))
    assert torch.equal(corners.sample(maps), corners.sample(maps.float()).bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert corners.sample(maps.float()).dtype == torch.float32
