import json

import pytest
import torch
import torch.nn.functional as F

from ufo.ops.masks import arrange_planes, resize_mask_logits, rle_decode, rle_encode


@pytest.mark.parametrize("side", [1, 2, 4])
def test_plane_fills_its_sub_pixel(side):
    planes = torch.randn(3, side * side, 5, 7)
    arranged = arrange_planes(planes)
    assert arranged.shape == (3, side * 5, side * 7)
    for a in range(side):
        for b in range(side):
            assert torch.equal(arranged[:, a::side, b::side], planes[:, side * a + b])


def test_arrange_planes_of_any_leading_shape():
    planes = torch.randn(2, 3, 16, 4, 5)
    assert torch.equal(arrange_planes(planes)[1, 2], arrange_planes(planes[1, 2]))
    assert arrange_planes(torch.zeros(0, 16, 4, 5)).shape == (0, 16, 20)


def test_arrange_planes_refuses_no_square():
    with pytest.raises(ValueError, match="15 mask tokens"):
        arrange_planes(torch.zeros(15, 4, 4))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_rle_round_trip(dtype):
    masks = (torch.rand(6, 13, 9) > 0.6).to(dtype)
    masks[2] = 0
    masks[3] = 1
    rles = rle_encode(masks)
    assert [rle["size"] for rle in rles] == [[13, 9]] * 6
    assert torch.equal(rle_decode(json.loads(json.dumps(rles)), (13, 9)), masks.to(torch.uint8))


def test_rle_of_a_non_contiguous_view():
    masks = torch.rand(9, 13, 4).permute(2, 1, 0) > 0.5
    assert torch.equal(rle_decode(rle_encode(masks), (13, 9)).bool(), masks)


def test_rle_of_nothing():
    assert rle_encode(torch.zeros(0, 4, 5, dtype=torch.bool)) == []
    assert rle_decode([], (4, 5)).shape == (0, 4, 5)


def test_rle_of_another_size_is_refused():
    with pytest.raises(ValueError, match="re-encode"):
        rle_decode(rle_encode(torch.ones(1, 4, 5, dtype=torch.bool)), (5, 4))


@pytest.mark.parametrize("chunk", [1, 2, 64])
def test_resize_does_not_depend_on_the_chunk(chunk):
    logits = torch.randn(5, 4, 6, requires_grad=True)
    expected = F.interpolate(logits[None], (11, 8), mode="bilinear", align_corners=False)[0]
    resized = resize_mask_logits(logits, (11, 8), chunk)
    torch.testing.assert_close(resized, expected)
    resized.sum().backward()
    assert logits.grad is not None


def test_resize_of_nothing_and_of_bf16():
    assert resize_mask_logits(torch.zeros(0, 4, 4), (8, 9)).shape == (0, 8, 9)
    assert resize_mask_logits(torch.randn(2, 4, 4).bfloat16(), (8, 9)).dtype == torch.float32
