import pytest
import torch

from ufo.ops.boxes import decode_boxes, encode_boxes

SIZE = (60, 100)


def random_boxes(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, 2, generator=generator).sort(dim=1).values
    return (corners * torch.tensor([100.0, 60.0])).flatten(1)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("num_bins", [64, 896])
def test_round_trip_is_within_one_bin(relative, num_bins):
    boxes = random_boxes(200)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 / torch.tensor([100.0, 60.0])
    # a reference within half an image of the centre, so that nothing is clamped
    references = (centres + 0.4 * (torch.rand(200, 2) - 0.5)).clamp(0, 1) if relative else None
    back = decode_boxes(encode_boxes(boxes, SIZE, num_bins, references), SIZE, num_bins, references)
    # half a bin of the centre and half of half a bin of the extent
    bound = 0.75 / num_bins * torch.tensor([100.0, 60.0, 100.0, 60.0]) + 1e-4
    assert ((back - boxes).abs() <= bound).all()


def test_known_values():
    box = torch.tensor([[20.0, 12.0, 60.0, 24.0]])  # centre (.4, .3), extent (.4, .2)
    assert encode_boxes(box, SIZE, 100).tolist() == [[40, 30, 40, 20]]
    reference = torch.tensor([[0.5, 0.25]])
    assert encode_boxes(box, SIZE, 100, reference).tolist() == [[40, 55, 40, 20]]


def test_bins_are_clamped_and_decoded_boxes_clipped():
    far = torch.tensor([[90.0, 50.0, 100.0, 60.0]])
    bins = encode_boxes(far, SIZE, 100, torch.zeros(1, 2))
    assert bins[0, :2].tolist() == [100, 100]
    boxes = decode_boxes(torch.tensor([[0, 9999, 300, 300]]), SIZE, 100)
    assert boxes.min() >= 0 and (boxes <= torch.tensor([100.0, 60.0, 100.0, 60.0])).all()


def test_leading_dimensions_and_empty():
    bins = torch.randint(0, 101, (2, 3, 4))
    references = torch.rand(2, 3, 2)
    batched = decode_boxes(bins, SIZE, 100, references)
    assert torch.equal(batched[1, 2], decode_boxes(bins[1, 2], SIZE, 100, references[1, 2]))
    assert encode_boxes(torch.zeros(0, 4), SIZE, 100, torch.zeros(0, 2)).shape == (0, 4)
    assert decode_boxes(torch.zeros(0, 4).long(), SIZE, 100).shape == (0, 4)


def test_bf16_boxes_are_computed_in_float32():
    boxes = random_boxes(20).bfloat16()
    assert torch.equal(encode_boxes(boxes, SIZE, 896), encode_boxes(boxes.float(), SIZE, 896))
