"""Copy-paste: objects of other images are pasted, cover, and keep their pixels."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from test_transforms import BOXES, SIZE, Scenes, copy_paste, run, scene
from torchvision.ops import masks_to_boxes

from ufo.data import transforms
from ufo.data.augmentations import (
    CopyPaste,
    DropTiny,
)


def test_pasted_objects_cover_and_keep_their_pixels():
    partner = [[0, 0, 60, 60], [100, 60, 150, 110]]
    transform = copy_paste(partner)
    pasted = set()
    for seed in range(40):
        result = run(transform, scene(BOXES), seed)
        masks = result["masks"].bool()
        own = transforms.square_resize(SIZE)(scene(BOXES))
        count = int((result["image"] != own["image"]).any(0).any())
        assert len(result["boxes"]) == len(result["labels"]) == len(masks)
        tight = masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1])
        pasted.add(len(masks) - 5 if not count else 9)
        if count:
            torch.testing.assert_close(result["boxes"].as_subclass(torch.Tensor)[:-2], tight[:-2])
            assert masks.sum(0).max() == 1  # what is covered is cut out of the masks below
            for mask, label in zip(masks, result["labels"], strict=True):
                colour = result["image"][0][mask].float().median()
                assert colour == pytest.approx(40 * (int(label) + 1), abs=2)
    assert pasted == {0, 9}  # nothing changes unless something is pasted


def paste_all(below, above, **options):
    """One paste of all objects of `above`, without any resize."""
    transform = CopyPaste(lambda sample: sample, **options)
    return transform._paste(scene(below), scene(above), torch.arange(len(above)))


def test_covered_objects_go_unless_hardly_moved_or_large_enough():
    hidden = paste_all([[20, 20, 40, 40]], [[10, 10, 50, 50]])
    assert hidden["labels"].tolist() == [0] and hidden["boxes"].tolist() == [[10, 10, 50, 50]]
    # 20 x 40 with 20 x 10 left: side moved by 30, 200 pixels remain
    small = paste_all([[20, 20, 40, 60]], [[10, 10, 50, 50]])
    assert len(small["labels"]) == 1
    assert len(paste_all([[20, 20, 40, 60]], [[10, 10, 50, 50]], min_area=199)["labels"]) == 2
    assert len(paste_all([[20, 20, 40, 60]], [[10, 10, 50, 50]], max_shift=30)["labels"]) == 2
    # 60 x 40 with 60 x 10 left: 600 pixels remain, the box becomes tight
    large = paste_all([[20, 20, 80, 60]], [[10, 10, 90, 50]])
    assert large["boxes"].tolist() == [[20, 50, 80, 60], [10, 10, 90, 50]]
    # nothing is left of a small one next to the origin, where an empty box is near
    assert paste_all([[0, 0, 9, 9]], [[0, 0, 20, 20]])["labels"].tolist() == [0]
    # a corner is covered: the box stays as it is
    corner = paste_all([[20, 20, 30, 30]], [[0, 0, 25, 25]])
    assert corner["boxes"].tolist()[0] == [20, 20, 30, 30]
    assert corner["masks"].flatten(1).sum(1).tolist() == [75, 625]


@pytest.mark.heavy
def test_number_of_pasted_objects_is_uniform_from_none_to_all():
    partner = [[k * 20, 0, k * 20 + 10, 10] for k in range(4)]
    transform = copy_paste(partner)
    counts = [len(run(transform, scene([]), seed)["labels"]) for seed in range(200)]
    frequency = np.bincount(counts, minlength=5)
    assert len(frequency) == 5 and frequency.min() > 20
    few = copy_paste(partner, max_objects=3)
    assert {len(run(few, scene([]), s)["labels"]) for s in range(60)} == {0, 1, 2}


def test_partners_come_from_the_whole_data_set_after_the_same_transform():
    transform = copy_paste(*([[k * 10, 0, k * 10 + 9, 9]] for k in range(5)))
    lefts = set()
    for seed in range(100):
        result = run(transform, scene([]), seed)
        assert result["image"].shape == (3, SIZE, SIZE)
        lefts |= {round(float(x) * 160 / SIZE / 10) for x in result["boxes"][:, 0]}
    assert lefts == {0, 1, 2, 3, 4}


def test_bad_partners_are_passed_over():
    transform = CopyPaste(transforms.square_resize(SIZE))
    transform.bind(Scenes(BOXES, BOXES, BOXES, broken=(0, 1)))
    assert max(len(run(transform, scene([]), s)["labels"]) for s in range(20)) > 0
    transform.bind(Scenes(BOXES, broken=(0,)))
    assert len(run(transform, scene(BOXES), 0)["labels"]) == 5
    refusing = CopyPaste(DropTiny(min_mask_area=10**6), partner=lambda: scene([[0, 0, 9, 9]]))
    assert refusing(scene([[0, 0, 9, 9]])) is None
    assert len(refusing(scene([]))["labels"]) == 0


def test_copy_paste_says_what_it_needs():
    transform = transforms.detection_train(SIZE)
    with pytest.raises(ValueError, match=r"call bind\(dataset\) first"):
        transform(scene(BOXES))
    transform.bind(Scenes(BOXES))
    with pytest.raises(ValueError, match="needs masks"):
        transform({k: v for k, v in scene(BOXES).items() if k != "masks"})
    assert isinstance(pickle.loads(pickle.dumps(transform)), CopyPaste)


# --- configuration
