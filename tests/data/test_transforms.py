from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torchvision import tv_tensors
from torchvision.ops import masks_to_boxes

from ufo.data import transforms
from ufo.data.augmentations import (
    CopyPaste,
    DropTiny,
    PhotometricDistort,
    Pipeline,
    RandomAbsoluteCrop,
    RandomRelativeCrop,
    RandomSemanticCrop,
    select,
)
from ufo.data.errors import DataError
from ufo.types import Target

SIZE = 96


def scene(boxes, size=(120, 160), **more):
    """Object k fills box k, has label k and the colour 40 (k + 1) on black; without overlap."""
    height, width = size
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    masks = torch.zeros(len(boxes), height, width, dtype=torch.uint8)
    for k, (left, top, right, bottom) in enumerate(boxes):
        image[:, top:bottom, left:right] = 40 * (k + 1)
        masks[k, top:bottom, left:right] = 1
    return {
        "image": tv_tensors.Image(image),
        "boxes": tv_tensors.BoundingBoxes(
            torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            format="XYXY",
            canvas_size=size,
        ),
        "labels": torch.arange(len(boxes)),
        "masks": tv_tensors.Mask(masks),
        **more,
    }


BOXES = [
    [10, 10, 60, 50],
    [70, 20, 90, 110],
    [100, 5, 155, 40],
    [20, 60, 60, 115],
    [100, 60, 140, 100],
]


def semantic_scene(size=(120, 160)):
    height, width = size
    semantic = torch.zeros(height, width, dtype=torch.uint8)
    semantic[:, width // 2 :] = 7
    semantic[height // 2 :] = 3
    image = semantic.expand(3, -1, -1) * 20
    return {"image": tv_tensors.Image(image.clone()), "semantic": tv_tensors.Mask(semantic)}


class Scenes:
    """A data set that yields fresh scenes; some may be unusable."""

    def __init__(self, *boxes, broken=()):
        self.boxes, self.broken = boxes, broken

    def __len__(self):
        return len(self.boxes)

    def __getitem__(self, i):
        if i in self.broken:
            raise DataError("broken")
        return scene(self.boxes[i])


def run(transform, sample, seed):
    torch.manual_seed(seed)
    return transform(sample)


def copy_paste(*partners, **options):
    transform = CopyPaste(transforms.square_resize(SIZE), **options)
    transform.bind(Scenes(*partners))
    return transform


PIPELINES = {
    "square": transforms.square_resize(SIZE),
    "plain": transforms.plain(SIZE, jitter=0.2),
    "detection": transforms.detection_train(SIZE, copy_paste=False),
    "crop always": transforms.detection_train(
        SIZE, short_sides=[90, 150], crop=[60, 100], multi_scale=1.0, copy_paste=False
    ),
    "instances": transforms.detection_train(
        SIZE, short_sides=[90], crop=[40, 80], min_mask_area=1, copy_paste=False
    ),
    "small on grey": transforms.detection_train(SIZE, multi_scale=0.0, small=1.0, copy_paste=False),
    "caption": transforms.caption_train(SIZE),
}
GEOMETRY = {  # the same without changes of colour, so that colours identify objects
    **{k: v for k, v in PIPELINES.items() if k not in ("plain", "caption")},
    "grounding": transforms.grounding_train(SIZE, jitter=0.0, crop=[0.8, 1.0]),
}


def test_small_on_grey__keeps_the_picture_whole():
    """The objects are those of the plain resize, as many times smaller as the picture."""
    plain = run(transforms.square_resize(SIZE), scene([[8, 8, 72, 40], [40, 20, 120, 80]], (96, 160)), 0)
    for seed in range(8):
        sample = run(PIPELINES["small on grey"], scene([[8, 8, 72, 40], [40, 20, 120, 80]], (96, 160)), seed)
        scale = (sample["boxes"][:, 2:] - sample["boxes"][:, :2]) / (
            plain["boxes"][:, 2:] - plain["boxes"][:, :2]
        )
        assert 0.49 < scale.min() <= 1 and scale.max() - scale.min() < 0.02
        outside = (sample["image"] == transforms.GREY).all(0)
        assert not (outside & (sample["masks"] > 0).any(0)).any()
        assert outside.float().mean() == pytest.approx(1 - scale.mean().item() ** 2, abs=0.04)


@pytest.mark.parametrize("shares", [{"multi_scale": 0.7, "small": 0.5}, {"small": -0.1}])
def test_shares__are_shares_of_all_pictures(shares):
    with pytest.raises(ValueError, match="together they are at most 1"):
        transforms.detection_train(SIZE, **shares)


@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.parametrize("size", [(120, 160), (200, 90), (96, 96), (40, 300)])
def test_every_image_becomes_the_square_asked_for(name, size):
    for seed in range(4):
        sample = run(PIPELINES[name], scene([[5, 5, 80, 35]], size, text="left"), seed)
        if sample is None:
            assert name == "instances"
            continue
        assert sample["image"].shape == (3, SIZE, SIZE) and sample["image"].dtype == torch.uint8
        assert sample["masks"].shape[1:] == (SIZE, SIZE) == sample["boxes"].canvas_size
        assert sample["text"] == "left"


@pytest.mark.parametrize("name", GEOMETRY)
def test_boxes_masks_and_labels_stay_together(name):
    """Every object's mask lies in its box, fills it and shows the object's own colour."""
    counts = set()
    for seed in range(30):
        sample = run(GEOMETRY[name], scene(BOXES), seed)
        if sample is None:
            continue
        counts.add(len(sample["labels"]))
        assert len(sample["boxes"]) == len(sample["masks"]) == len(sample["labels"])
        assert isinstance(sample["boxes"], tv_tensors.BoundingBoxes)
        assert isinstance(sample["masks"], tv_tensors.Mask)
        boxes = sample["boxes"].as_subclass(torch.Tensor)
        assert boxes.dtype == torch.float32 and boxes.min() >= 0 and boxes.max() <= SIZE + 1e-4
        large = (boxes[:, 2:] - boxes[:, :2]).amin(1) > 6
        assert sample["masks"].flatten(1).sum(1)[large].all()
        for box, mask, label in zip(
            boxes[large], sample["masks"][large], sample["labels"][large], strict=True
        ):
            tight = masks_to_boxes(mask[None])[0] + torch.tensor([0, 0, 1, 1])
            assert (tight - box).abs().max() < 2.5
            colours = sample["image"][:, mask.bool()].float()
            assert colours.median() == pytest.approx(40 * (int(label) + 1), abs=2)
    assert max(counts) == 5
    if name in ("crop always", "instances"):
        assert min(counts) < 5  # some crops did lose objects


@pytest.mark.parametrize("name", PIPELINES)
def test_images_without_objects_pass(name):
    for seed in range(8):
        sample = run(PIPELINES[name], scene([]), seed)
        assert sample["boxes"].shape == (0, 4) and sample["labels"].shape == (0,)
        assert sample["masks"].shape == (0, SIZE, SIZE)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("name", [*PIPELINES, "grounding", "semantic", "copy_paste"])
def test_torch_seed_makes_a_sample_and_nothing_else_does(name):
    if name == "semantic":
        transform, make = transforms.semantic_train(SIZE), semantic_scene
    elif name == "copy_paste":
        transform, make = transforms.detection_train(SIZE), lambda: scene(BOXES)
        transform.bind(Scenes(BOXES, [[0, 0, 30, 30]], []))
    else:
        transform = PIPELINES.get(name, transforms.grounding_train(SIZE))
        make = lambda: scene([[30, 30, 100, 100]])  # noqa: E731
    results = []
    for seed in range(6):
        random.seed(seed)
        np.random.seed(seed)
        state = random.getstate(), np.random.get_state()[1].tolist()
        first = run(transform, make(), seed)
        assert (random.getstate(), np.random.get_state()[1].tolist()) == state
        random.seed(99)
        np.random.seed(99)
        assert (first is None and run(transform, make(), seed) is None) or same(
            first, run(transform, make(), seed)
        )
        results.append(first)
    if name not in ("square",):
        assert not all(same(results[0], other) for other in results[1:])


def test_transforms_leave_their_input_alone():
    for transform in (*PIPELINES.values(), copy_paste(BOXES)):
        sample, untouched = scene(BOXES), scene(BOXES)
        run(transform, sample, 3)
        assert same(sample, untouched)


# --- the plain pipeline and evaluation


def test_plain_keeps_left_and_right_and_every_object():
    sample = scene(BOXES)
    result = run(transforms.plain(SIZE, jitter=0.3), sample, 0)
    scale = torch.tensor([SIZE / 160, SIZE / 120] * 2)
    torch.testing.assert_close(
        result["boxes"].as_subclass(torch.Tensor), sample["boxes"] * scale, check_dtype=False
    )
    same_image = run(transforms.plain(SIZE), sample, 0)["image"]
    assert torch.equal(same_image, transforms.square_resize(SIZE)(sample)["image"])
    assert not torch.equal(same_image, result["image"])


def test_targets_are_not_touched():
    target = Target(id=3, size=(120, 160), boxes=torch.tensor([[1.0, 2, 3, 4]]))
    sample = transforms.plain(SIZE)({"image": scene([])["image"], "target": target})
    assert sample["target"] is target and target.boxes.tolist() == [[1, 2, 3, 4]]


def test_interpolation_and_antialias_are_the_callers():
    image = {"image": tv_tensors.Image(torch.randint(0, 256, (3, 300, 300), dtype=torch.uint8))}
    variants = [("bilinear", False), ("bilinear", True), ("bicubic", True)]
    results = [transforms.square_resize(50, *variant)(image)["image"] for variant in variants]
    assert results[0].float().std() > 1.5 * results[1].float().std()  # antialias averages noise
    assert not torch.equal(results[1], results[2])
    with pytest.raises(ValueError, match="cubic"):
        transforms.square_resize(50, "cubic")


# --- crops


def test_absolute_crop_ranges():
    sizes = set()
    for seed in range(200):
        sample = run(RandomAbsoluteCrop(50, 90), scene(BOXES, (70, 160)), seed)
        sizes.add(tuple(sample["image"].shape[1:]))
    heights, widths = zip(*sizes, strict=True)
    assert (min(heights), max(heights), min(widths), max(widths)) == (50, 70, 50, 90)


def test_absolute_crop_may_lose_all_objects():
    results = [run(RandomAbsoluteCrop(20, 30), scene([[60, 40, 99, 79]]), s) for s in range(40)]
    counts = [len(sample["boxes"]) for sample in results]
    assert 0 in counts and 1 in counts
    assert all(len(r["masks"]) == len(r["labels"]) == n for r, n in zip(results, counts, strict=True))


def test_drop_tiny():
    sample = scene([[0, 0, 9, 9], [20, 20, 40, 40], [50, 50, 60, 60]])
    sample["boxes"][0, 2:] = sample["boxes"][0, :2]
    sample["masks"][2] = 0
    assert DropTiny()(sample)["labels"].tolist() == [1, 2]
    kept = DropTiny(min_mask_area=1)(sample)
    assert kept["labels"].tolist() == [1]
    assert isinstance(kept["masks"], tv_tensors.Mask) and kept["boxes"].canvas_size == (120, 160)
    assert DropTiny(min_mask_area=401)(sample) is None
    assert DropTiny(min_mask_area=401)(scene([]))["labels"].tolist() == []


def test_pipeline_ends_at_none():
    called = []
    assert Pipeline([lambda s: None, called.append])({}) is None
    assert called == []


def test_select_takes_masks_and_indices():
    sample = {k: v for k, v in scene(BOXES).items() if k != "masks"}
    assert select(sample, torch.tensor([4, 0]))["labels"].tolist() == [4, 0]
    assert select(sample, torch.zeros(5, dtype=torch.bool))["boxes"].shape == (0, 4)


def test_grounding_crop_contains_part_of_the_object_or_is_refused():
    outcomes = []
    for seed in range(60):
        sample = scene([[0, 0, 20, 120]])
        del sample["labels"]
        result = run(RandomRelativeCrop(0.5, 0.9), sample, seed)
        outcomes.append(result is not None)
        if result is not None:
            height, width = result["image"].shape[1:]
            assert 60 <= height <= 108 and 80 <= width <= 144
            assert (result["boxes"][:, 2:] > result["boxes"][:, :2]).all()
            assert result["image"].max() == 40
    assert 5 < sum(outcomes) < 55


def test_grounding_never_mirrors():
    left = scene([[0, 0, 60, 120]], text="left")
    for seed in range(20):
        result = run(transforms.grounding_train(SIZE, jitter=1.0), left, seed)
        assert result["boxes"][0, 0] == 0 and result["boxes"][0, 2] < 0.8 * SIZE
        assert result["text"] == "left"


# --- semantic maps


def test_semantic_pipeline_keeps_labels_whole_and_with_their_pixels():
    transform = transforms.semantic_train(SIZE)
    transform.steps = transform.steps[:-1]  # without the change of colours
    for seed in range(20):
        sample = run(transform, semantic_scene(), seed)
        semantic = sample["semantic"]
        assert semantic.shape == (SIZE, SIZE) == tuple(sample["image"].shape[1:])
        assert isinstance(semantic, tv_tensors.Mask) and semantic.dtype == torch.uint8
        assert set(semantic.unique().tolist()) <= {0, 3, 7}
        agree = (sample["image"][0].int() - 20 * semantic.int()).abs() <= 2
        assert agree.float().mean() > 0.95  # all but the blurred borders


def test_semantic_crop_avoids_a_dominant_class():
    semantic = torch.zeros(100, 100, dtype=torch.uint8)
    semantic[:, 80:] = 1
    semantic[:5] = 255
    image = tv_tensors.Image(torch.zeros(3, 100, 100, dtype=torch.uint8))
    sample = {"image": image, "semantic": tv_tensors.Mask(semantic)}

    def shares(tries):
        for seed in range(60):
            crop = run(RandomSemanticCrop(40, 0.75, tries), sample, seed)["semantic"]
            yield float((crop[crop != 255] == 0).float().mean())

    often, once = list(shares(30)), list(shares(1))
    assert sum(share >= 0.75 for share in often) < 3 < 20 < sum(share >= 0.75 for share in once)


def test_padding_is_black_and_ignored():
    sample = semantic_scene((30, 50))
    sample["image"] = tv_tensors.Image(torch.full_like(sample["image"], 9))
    padded = run(RandomSemanticCrop(64), sample, 0)
    assert padded["semantic"].shape == (64, 64)
    outside = torch.ones(64, 64, dtype=torch.bool)
    outside[:30, :50] = False
    assert (padded["semantic"][outside] == 255).all() and (padded["image"][:, outside] == 0).all()
    assert torch.equal(padded["semantic"][:30, :50], sample["semantic"])


def test_photometric_distortion_keeps_the_order_of_channels():
    red = torch.zeros(3, 8, 8, dtype=torch.uint8)
    red[0] = 200
    one = (1.0, 1.0)
    transform = PhotometricDistort(one, one, one, (0.0, 0.0), p=1.0)
    for seed in range(10):
        assert torch.equal(run(transform, {"image": tv_tensors.Image(red)}, seed)["image"], red)
    changed = [run(PhotometricDistort(p=1.0), {"image": tv_tensors.Image(red)}, s) for s in range(5)]
    assert len({int(c["image"].sum()) for c in changed}) > 3


# --- copy-paste


@pytest.mark.parametrize(
    "options",
    [
        {"_target_": "ufo.data.transforms.plain", "jitter": 0.1},
        {"_target_": "ufo.data.transforms.square_resize", "interpolation": "bicubic"},
        {
            "_target_": "ufo.data.transforms.detection_train",
            "short_sides": [90, 100],
            "crop": [40, 60],
            "copy_paste": False,
        },
        {"_target_": "ufo.data.transforms.caption_train", "scale": [0.5, 1.0], "ratio": [1, 2]},
        {"_target_": "ufo.data.transforms.grounding_train", "crop": [0.9, 1.0]},
    ],
)
def test_pipelines_from_a_config(options):
    transform = instantiate(OmegaConf.create({**options, "size": SIZE}))
    sample = run(transform, scene([[40, 30, 120, 90]]), 0)
    assert sample["image"].shape == (3, SIZE, SIZE)


def test_semantic_pipeline_from_a_config():
    options = {"_target_": "ufo.data.transforms.semantic_train", "scale": [1.0, 1.5], "size": SIZE}
    sample = run(instantiate(OmegaConf.create(options)), semantic_scene(), 0)
    assert sample["semantic"].shape == (SIZE, SIZE)
