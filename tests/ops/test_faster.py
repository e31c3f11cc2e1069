"""What stands in on one kind of device says the same as the definition."""

from __future__ import annotations

import pytest
import torch

from ufo.ops.faster import faster
from ufo.ops.masks import _interleave, binarise, rle_encode
from ufo.ops.nms import _few_on_cpu, mask_iou, soft_nms
from ufo.ops.runs import encode_changes


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("on_cpu", [True, False])
@pytest.mark.parametrize("gradients", [True, False, None])
def test_a_stand_in_is_called_where_it_was_made_for(on_cpu, gradients):
    @faster(lambda x: "stand-in", on_cpu=on_cpu, gradients=gradients)
    def algorithm(x):
        """Its words."""
        return "definition"

    assert algorithm.__doc__ == "Its words."
    for device in ("cpu", "meta"):
        for recorded in (True, False):
            with torch.set_grad_enabled(recorded):
                wanted = (device == "cpu") == on_cpu and gradients in (None, recorded)
                assert (algorithm(torch.empty(1, device=device)) == "stand-in") == wanted
    assert algorithm.plain(torch.empty(1)) == "definition"
    assert algorithm(x=torch.empty(1)) == algorithm(torch.empty(1))


def test_a_stand_in_may_decline():
    @faster(lambda x: NotImplemented, on_cpu=True)
    def algorithm(x):
        return "definition"

    assert algorithm(torch.empty(1)) == "definition"


def shapes(generator: torch.Generator) -> list[torch.Tensor]:
    """Masks with long and short runs, with and without the first and the last pixel; none at all."""
    noise = torch.rand(70, 9, 7, generator=generator) < torch.linspace(0, 1, 70)[:, None, None]
    corners = torch.zeros(3, 5, 6, dtype=torch.bool)
    corners[0, 0, 0] = corners[1, -1, -1] = corners[2, 2:4, 1:5] = True
    return [noise, corners, corners.to(torch.uint8), corners[:0], torch.ones(1, 1, 1, dtype=torch.bool)]


def test_rle_from_changes_is_that_of_pycocotools_to_the_byte(generator):
    for masks in shapes(generator):
        assert encode_changes(masks) == rle_encode.plain(masks)
        assert encode_changes(masks.mT.contiguous().mT) == rle_encode.plain(masks)


def test_overlaps_run_by_run_and_pixel_by_pixel(generator):
    for masks in shapes(generator):
        torch.testing.assert_close(mask_iou(masks), mask_iou.plain(masks))
    blocks = torch.zeros(4, 64, 64, dtype=torch.bool)  # long runs: these are compared run by run
    for i in range(4):
        blocks[i, 8 * i : 8 * i + 20, 5:50] = True
    torch.testing.assert_close(mask_iou(blocks), mask_iou.plain(blocks))


def test_planes_and_windows(generator):
    planes = torch.randn(3, 16, 5, 4, generator=generator)
    with torch.no_grad():
        assert torch.equal(_interleave(planes, 4), _interleave.plain(planes, 4))
    logits = torch.randn(5, 12, 10, generator=generator)
    masks, quality = binarise(logits, (31, 40), 0.4)
    expected = binarise.plain(logits, (31, 40), 0.4)
    assert torch.equal(masks, expected[0])
    torch.testing.assert_close(quality, expected[1])


@pytest.mark.parametrize("method", ["linear", "gaussian", "naive"])
def test_few_boxes_in_one_transfer(generator, method):
    corner = torch.rand(30, 2, generator=generator) * 20
    boxes = torch.cat([corner, corner + 5 + torch.rand(30, 2, generator=generator) * 20], 1)
    scores, labels = torch.rand(30, generator=generator), torch.randint(3, (30,), generator=generator)
    labels += 365_000  # whole in float32, too
    found = _few_on_cpu(boxes, scores, labels, method=method)
    for one, other in zip(found, soft_nms.plain(boxes, scores, labels, method=method), strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)
    many = boxes.repeat(4, 1)
    assert _few_on_cpu(many, scores.repeat(4), labels.repeat(4), method=method) is NotImplemented
