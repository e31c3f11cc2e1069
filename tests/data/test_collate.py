from __future__ import annotations

import copy
import pickle
from functools import partial
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from torchvision import tv_tensors

from ufo.data.collate import collate
from ufo.types import Sample, Target

together = partial(collate, task="detection", source="fake/detection", classes=("a",))


def sample(objects: int, size: tuple[int, int] = (6, 8), **more) -> Sample:
    return {
        "image": tv_tensors.Image(torch.randint(255, (3, *size), dtype=torch.uint8)),
        "boxes": tv_tensors.BoundingBoxes(torch.rand(objects, 4), format="XYXY", canvas_size=size),
        "labels": torch.arange(objects),
        "masks": tv_tensors.Mask(torch.randint(2, (objects, *size), dtype=torch.uint8)),
        **more,
    }


def test_every_sample_finds_its_place():
    samples = [sample(n, text=str(n)) for n in (2, 0, 3)]
    batch = together(samples, seed=9)
    assert (batch.task, batch.source, batch.classes) == ("detection", "fake/detection", ("a",))
    assert (batch.seed, batch.texts, len(batch)) == (9, ["2", "0", "3"], 3)
    for i, s in enumerate(samples):
        assert torch.equal(batch.images[i], s["image"])
        for key in ("boxes", "labels", "masks"):
            assert torch.equal(getattr(batch, key)[i], s[key])
    assert batch.semantic is None
    assert batch.targets == []


def test_tensors_are_plain():
    batch = together([sample(1, semantic=tv_tensors.Mask(torch.zeros(6, 8, dtype=torch.uint8)))])
    for tensor in (batch.images, batch.boxes[0], batch.masks[0], batch.semantic):
        assert type(tensor) is torch.Tensor
    assert batch.semantic.shape == (1, 6, 8)


def test_images_alone_make_a_batch():
    image = tv_tensors.Image(torch.zeros(3, 4, 4, dtype=torch.uint8))
    batch = together([{"image": image}, {"image": image}])
    assert batch.boxes is batch.labels is batch.masks is None
    assert batch.texts == ["", ""]


def test_names_the_samples_whose_sizes_differ():
    odd = [sample(1, target=Target(id=3, size=(6, 8), image="x.png")), sample(1, (5, 5))]
    with pytest.raises(ValueError, match=r"id 3 x\.png: \(3, 6, 8\); place 1: \(3, 5, 5\)"):
        together(odd)


def test_refuses_annotations_that_only_some_samples_have():
    partly = sample(1)
    del partly["masks"]
    with pytest.raises(ValueError, match="1 of 2 samples of a batch have 'masks'"):
        together([sample(1), partly])


def test_can_be_pickled():
    assert pickle.loads(pickle.dumps(together)).keywords == together.keywords


def test_targets_travel_without_shared_memory_and_unchanged():
    target = Target(id=4, size=(6, 8), boxes=torch.rand(2, 4), masks=[{"counts": b"1"}], text="t")
    packed = ForkingPickler.dumps(target)
    # a tensor that shares memory is pickled as a handle by torch, which then keeps it open
    assert b"rebuild_storage" not in bytes(packed)
    back = pickle.loads(packed)
    assert torch.equal(back.boxes, target.boxes)
    assert (back.id, back.size, back.masks, back.text) == (4, (6, 8), [{"counts": b"1"}], "t")
    assert back.labels is None
    assert torch.equal(copy.deepcopy(target).boxes, target.boxes)


def test_small_tensors_of_a_batch_share_one_storage():
    batch = together([sample(n) for n in (2, 1, 3)])
    assert len({b.untyped_storage().data_ptr() for b in batch.boxes}) == 1
