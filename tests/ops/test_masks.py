import json

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import masks_to_boxes

from ufo.ops import mask_windows
from ufo.ops.masks import (
    arrange_planes,
    binarise,
    mask_boxes,
    resize_mask_logits,
    rle_decode,
    rle_encode,
)


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


# ------------------------------------------------------------------------------- from logits to masks


def blobs(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Logits of round objects, some cut by the border, one without a pixel, one that fills the image."""
    generator = torch.Generator().manual_seed(seed)
    centre, radius = torch.rand(2, count, 2, 1, 1, generator=generator)
    y, x = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)
    distance = ((y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2).sqrt()
    logits = 20 * (0.4 * radius[:, 0] - distance)
    logits += 0.3 * torch.randn(logits.shape, generator=generator)
    logits[0], logits[1] = -1.0, 2.0
    return logits


@pytest.mark.parametrize("size", [(96, 128), (97, 61), (24, 200), (13, 9), (20, 24)])
@pytest.mark.parametrize("threshold", [0.5, 0.3, 0.9])
def test_binarise_equals_the_whole_resize(size, threshold):
    logits = blobs(21, 20, 24)
    probability = resize_mask_logits(logits, size).sigmoid()
    expected = probability > threshold
    masks, quality = binarise(logits, size, threshold)
    assert torch.equal(masks, expected)
    assert not masks[0].any() and quality[0] == 0
    inside = [p[m].mean() if m.any() else p.new_zeros(()) for p, m in zip(probability, expected, strict=True)]
    torch.testing.assert_close(quality, torch.stack(inside), rtol=1e-5, atol=1e-6)


def test_binarise_where_rounding_decides():
    """Neighbours that cancel to the last bit: half of the pixels lie on the threshold or beside it."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(12, 10, 10, generator=generator)
    logits[:, :, 1::2] = -logits[:, :, ::2]
    logits[:, 1::2] = -logits[:, ::2] * (1 + 1e-7 * torch.randn(12, 5, 10, generator=generator))
    logits[6:] *= 1e-7  # the sigmoid of all of these is a rounding away from one half
    for size in [(40, 40), (30, 50), (10, 10)]:
        probability = resize_mask_logits(logits, size).sigmoid()
        assert (probability == 0.5).any()
        assert torch.equal(binarise(logits, size)[0], probability > 0.5)


def test_binarise_computes_little_of_small_objects(monkeypatch):
    """What is computed follows the objects, not the image."""
    computed = []
    plain = mask_windows._Taps.mix
    monkeypatch.setattr(
        mask_windows._Taps,
        "mix",
        lambda *arguments: computed.append(plain(*arguments)) or computed[-1],
    )
    logits = torch.full((30, 50, 50), -3.0)
    for i in range(30):
        logits[i, i : i + 6, 2 * i % 44 : 2 * i % 44 + 5] = 3.0
    masks, _ = binarise(logits, (400, 400))
    assert masks.flatten(1).any(1).all()
    assert sum(x.numel() for x in computed) < 0.15 * masks.numel()


def test_binarise_of_nothing():
    masks, quality = binarise(torch.zeros(0, 4, 4), (8, 9))
    assert masks.shape == (0, 8, 9) and quality.shape == (0,)
    masks, quality = binarise(torch.full((2, 4, 4), -5.0), (8, 9))
    assert not masks.any() and not quality.any()


def test_binarised_masks_reach_rle_without_being_turned():
    masks, _ = binarise(blobs(5, 20, 20), (64, 48))
    assert masks.mT.is_contiguous()
    assert torch.equal(rle_decode(rle_encode(masks), (64, 48)).bool(), masks)


def test_mask_boxes():
    masks = torch.zeros(4, 11, 13, dtype=torch.bool)
    masks[0, 2:5, 3:9] = True
    masks[1, 0, 12] = True
    masks[3] = True
    expected = [[3, 2, 9, 5], [12, 0, 13, 1], [0, 0, 0, 0], [0, 0, 13, 11]]
    assert mask_boxes(masks).tolist() == expected
    assert mask_boxes(masks.mT.contiguous().mT).tolist() == expected
    assert mask_boxes(masks[:0]).shape == (0, 4)
    for other in (torch.uint8, torch.int64):
        assert mask_boxes(masks.to(other)).tolist() == expected
    seen = masks[[0, 1, 3]]
    assert torch.equal(mask_boxes(seen, whole_pixels=False), masks_to_boxes(seen))
    assert mask_boxes(masks, whole_pixels=False)[2].tolist() == [0, 0, 0, 0]


def test_arranging_with_and_without_gradients():
    planes = torch.randn(3, 16, 5, 7)
    with torch.no_grad():
        plain = arrange_planes(planes)
    assert torch.equal(plain, arrange_planes(planes))
