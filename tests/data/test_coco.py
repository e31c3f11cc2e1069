from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from files import coco_content, shared, write_image, write_json
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from ufo.data.datasets import CocoDataset
from ufo.data.datasets.base import Strings, read_json
from ufo.data.datasets.segmentations import Segmentations, decode_masks, run_lengths
from ufo.data.errors import DataError
from ufo.data.pictures import image_size, read_image


def make(folder: Path, *annotations: dict[str, Any], images: int = 1, **options: Any):
    """A data set of the given changes to the standard annotation (see `coco_content`)."""
    for k in range(images):
        write_image(folder / "images" / f"{k}.jpg")
    path = write_json(folder / "coco.json", coco_content(*annotations, images=images))
    return CocoDataset(folder / "images", path, **options)


def square(x: int, y: int, side: int) -> dict[str, Any]:
    corners = [x, y, x + side, y, x + side, y + side, x, y + side]
    return {"bbox": [x, y, side, side], "area": side * side, "segmentation": [corners]}


# --- the real samples


@pytest.mark.parametrize(
    ("folder", "images", "annotations"),
    [
        ("coco_instances_sample", "images", "annotations.json"),
        ("coco_panoptic_sample", ".", "panoptic_coco_detection_format.json"),
    ],
)
def test_real_samples_equal_pycocotools(folder, images, annotations):
    path = shared(folder, annotations)
    api = COCO(path)
    data = CocoDataset(shared(folder, images), path)
    names = [category["name"] for category in api.dataset["categories"]]
    assert list(data.classes) == names
    assert len(data) == len(api.imgs)
    seen = 0
    for i in range(len(data)):
        target = data.target(i)
        expected = api.imgToAnns[target.image_id]
        assert data[i]["image"].shape[1:] == target.size
        assert target.area.tolist() == pytest.approx([a["area"] for a in expected])
        assert target.iscrowd.tolist() == [bool(a["iscrowd"]) for a in expected]
        assert [data.classes[k] for k in target.labels] == [
            api.cats[a["category_id"]]["name"] for a in expected
        ]
        for box, rle, annotation in zip(target.boxes, target.masks, expected, strict=True):
            x, y, w, h = annotation["bbox"]
            assert box.tolist() == pytest.approx([x, y, x + w, y + h])
            assert np.array_equal(coco_mask.decode(rle), api.annToMask(annotation))
            seen += 1
    assert seen == len(api.anns) > 30


def test_real_sample_trains_without_crowd_and_without_unannotated_images():
    data = CocoDataset(
        shared("coco_instances_sample", "images"),
        shared("coco_instances_sample", "annotations.json"),
        train=True,
    )
    assert len(data) == 5  # of six, one is without annotation
    crowds = 0
    for i in range(len(data)):
        sample, target = data[i], data.target(i)
        crowds += int(target.iscrowd.sum())
        masks = decode_masks(target.masks, target.size)
        assert torch.equal(sample["masks"], masks[~target.iscrowd])
        assert torch.equal(sample["labels"], target.labels[~target.iscrowd])
        assert sample["boxes"].shape == (len(sample["labels"]), 4)
    assert crowds == 1


# --- records to samples


def test_labels_are_ranks_in_file_order_or_in_the_given_list(tmp_path):
    marks = [{"category_id": 90}, {"category_id": 13}, {"category_id": 7}]
    data = make(tmp_path, *marks, train=True)
    assert data.classes == ("zebra", "apple", "cup")
    assert data[0]["labels"].tolist() == [0, 2, 1]
    some = make(tmp_path, *marks, train=True, classes=["cup", "zebra"])
    assert some.classes == ("cup", "zebra")
    assert some[0]["labels"].tolist() == [1, 0]
    assert not some.problems.counts  # leaving a class out is not a fault of the file


def test_class_name_missing_from_the_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no category Zebra; it has zebra, apple, cup"):
        make(tmp_path, {}, classes=["Zebra", "cup"])


def test_one_mask_in_three_notations(tmp_path):
    mask = np.zeros((48, 64), dtype=np.uint8, order="F")
    mask[8:24, 4:24] = 1
    rle = coco_mask.encode(mask)
    counts = rle["counts"]
    runs = run_lengths(counts)
    data = make(
        tmp_path,
        {},
        {"segmentation": {"size": [48, 64], "counts": counts.decode()}},
        {"segmentation": {"size": [48, 64], "counts": runs}},
        train=True,
    )
    masks = data[0]["masks"]
    assert masks.dtype == torch.uint8
    assert torch.equal(masks, torch.from_numpy(mask).expand(3, -1, -1))
    assert not data.problems.counts


def test_run_lengths_read_what_pycocotools_writes():
    generator = np.random.default_rng(1)
    for size in [(1, 1), (7, 5), (300, 400)]:
        for density in (0.0, 0.001, 0.3, 1.0):
            mask = np.asfortranarray(generator.random(size) < density, dtype=np.uint8)
            runs = run_lengths(coco_mask.encode(mask)["counts"])
            values = np.arange(len(runs)) % 2
            assert np.array_equal(np.repeat(values, runs).reshape(size, order="F"), mask)


def test_boxes_masks_and_labels_follow_their_image(tmp_path):
    """Annotations in any order end up with their own image, in file order."""
    marks = [
        {"image_id": 11, **square(3 * k, k, 9)} if k % 2 else {"image_id": 10, **square(k, 2, 5)}
        for k in range(8)
    ]
    data = make(tmp_path, *marks, images=2, train=True)
    for i, odd in enumerate((0, 1)):
        sample = data[i]
        expected = [m["bbox"] for m in marks[odd::2]]
        assert sample["boxes"][:, :2].tolist() == [box[:2] for box in expected]
        for box, mask in zip(sample["boxes"].long().tolist(), sample["masks"], strict=True):
            assert mask[box[1] : box[3], box[0] : box[2]].all()
            assert mask.sum() == (box[2] - box[0]) * (box[3] - box[1])


def test_detection_only(tmp_path):
    data = make(tmp_path, {}, train=True, masks=False)
    assert data.provides == {"boxes", "labels"}
    assert "masks" not in data[0] and data.target(0).masks is None
    bare = make(tmp_path, {"segmentation": []}, {"segmentation": None}, train=True)
    assert bare.provides == {"boxes", "labels"} and not bare.problems.counts
    assert len(bare[0]["boxes"]) == 2
    assert make(tmp_path, {}).provides == {"boxes", "labels", "masks"}


def test_evaluation_samples_are_images_alone_and_keep_every_image(tmp_path):
    data = make(tmp_path, {}, {"iscrowd": 1}, images=3)
    assert len(data) == 3 and data[2].keys() == {"image"}
    assert data.target(0).iscrowd.tolist() == [False, True]
    assert [data.target(i).image_id for i in range(3)] == [10, 11, 12]
    empty = data.target(2)
    assert empty.boxes.shape == (0, 4) and empty.masks == [] and empty.area.shape == (0,)


def test_training_leaves_out_unannotated_and_small_images(tmp_path):
    content = coco_content({"image_id": 10}, {"image_id": 12}, {"image_id": 13}, images=4)
    content["images"][2].update(height=31, width=64)
    content["images"][3].update(height=32, width=31)
    write_image(tmp_path / "0.jpg")
    path = write_json(tmp_path / "coco.json", content)
    data = CocoDataset(tmp_path, path, train=True)
    assert [data.target(i).image_id for i in range(len(data))] == [10]
    tiny = CocoDataset(tmp_path, path, train=True, min_size=31)
    assert [tiny.target(i).image_id for i in range(len(tiny))] == [10, 12, 13]
    assert CocoDataset(tmp_path, path, train=False).portrait().tolist() == [False] * 3 + [True]


def test_image_with_only_crowd_survives_without_objects(tmp_path):
    data = make(tmp_path, {"iscrowd": 1}, train=True)
    sample = data[0]
    assert sample["boxes"].shape == (0, 4) and sample["masks"].shape == (0, 48, 64)
    assert sample["labels"].shape == (0,) and sample["labels"].dtype == torch.int64


# --- bad annotations


@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "missing", "text", "other size"])
def test_unusable_image_is_named(tmp_path, damage):
    data = make(tmp_path, {}, train=True)
    path = tmp_path / "images" / "0.jpg"
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "noise":
        path.write_bytes(content[:40] + bytes(len(content) - 40))
    elif damage in ("empty", "text"):
        path.write_bytes(b"" if damage == "empty" else b"%!PS-Adobe-3.0 EPSF-3.0\n")
    elif damage == "missing":
        path.unlink()
    else:
        write_image(path, 64, 48)
    with pytest.raises(DataError, match=r"0\.jpg") as error:
        data[0]
    assert "\n" not in str(error.value)
    assert data.target(0).boxes.shape == (1, 4)  # evaluation can still count it as missed


def test_huge_image_is_refused_from_its_header(tmp_path):
    path = write_image(tmp_path / "big.png", 30, 40)
    with pytest.raises(DataError, match="40x30 is more than the 1000 pixels"):
        read_image(path, max_pixels=1000)
    content = coco_content({})
    content["images"][0].update(height=10**6, width=10**6)
    write_image(tmp_path / "0.jpg")
    with pytest.raises(DataError, match=r"image 10 .* not allowed"):
        CocoDataset(tmp_path, write_json(tmp_path / "coco.json", content))


def test_exif_orientation_is_honoured_unless_the_annotations_disagree(tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    path = write_image(tmp_path / "turned.png", 30, 40, exif=exif)
    plain = write_image(tmp_path / "plain.png", 30, 40)
    assert image_size(path) == (40, 30)
    turned = read_image(path)
    assert torch.equal(turned, read_image(plain).rot90(-1, (1, 2)))
    assert torch.equal(read_image(path, (40, 30)), turned)
    assert torch.equal(read_image(path, (30, 40)), read_image(plain))
    with pytest.raises(DataError, match="annotations are for 30x30; take the picture"):
        read_image(path, (30, 30))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_every_colour_mode_becomes_rgb(tmp_path, mode):
    suffix = "jpg" if mode == "CMYK" else "png"
    path = tmp_path / f"image.{suffix}"
    PIL.Image.new("RGB", (5, 4), (255, 255, 255)).convert(mode).save(path)
    image = read_image(path)
    assert image.shape == (3, 4, 5) and image.dtype == torch.uint8
    assert image.float().mean() > 250


def test_broken_json_is_named_with_the_position(tmp_path):
    text = json.dumps(coco_content({}), indent=1)
    path = tmp_path / "coco.json"
    for end in (len(text) // 2, len(text) - 1, 0):
        path.write_text(text[:end])
        with pytest.raises(DataError, match=r"coco\.json is cut short at line \d+, column \d+"):
            CocoDataset(tmp_path, path)
    path.write_text(text.replace(":", "=", 1))
    with pytest.raises(DataError, match=r"not valid JSON at line 2, column \d+"):
        CocoDataset(tmp_path, path)
    path.write_bytes(text.replace("zebra", "zébra").encode("latin-1"))
    with pytest.raises(DataError, match=r"not UTF-8 text at byte \d+"):
        CocoDataset(tmp_path, path)
    path.write_text("[" * 100_000)
    with pytest.raises(DataError, match="nested too deeply"):
        read_json(path)


@pytest.mark.parametrize(
    ("content", "missing"),
    [
        ([], "images"),
        ({"images": [], "annotations": []}, "categories"),
        ({"images": [{"id": 1}], "annotations": [], "categories": []}, "file_name"),
        ({"images": [{"id": [1], "file_name": "a"}], "annotations": [], "categories": []}, "id"),
    ],
)
def test_json_of_another_kind(tmp_path, content, missing):
    with pytest.raises(DataError, match=f"`{missing}`"):
        CocoDataset(tmp_path, write_json(tmp_path / "x.json", content))


def test_wrong_paths_are_named_with_what_to_change(tmp_path):
    path = write_json(tmp_path / "coco.json", coco_content({}))
    with pytest.raises(DataError, match=r"images folder .*nowhere does not exist.*`images`"):
        CocoDataset(tmp_path / "nowhere", path)
    with pytest.raises(DataError, match=r"annotations file .*no\.json does not exist.*`annot"):
        CocoDataset(tmp_path, tmp_path / "no.json")
    with pytest.raises(DataError, match=r"name images such as 0\.jpg.*set this.*`images`"):
        CocoDataset(tmp_path, path)


# --- memory


def test_annotations_are_kept_compactly():
    polygon = [float(x) for x in range(100)]
    tracemalloc.start()
    kept = Segmentations()
    for _ in range(1000):
        kept.append([polygon], (200, 200))
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(kept) == 1000 and kept.rle(999, (200, 200)) == kept.rle(0, (200, 200))
    assert grown < 1.3 * 1000 * 100 * 8  # the coordinates as doubles and little else


def test_strings_hold_any_text():
    texts = ["", "a cat", "été 雪", "\ud800"]
    packed = Strings(texts)
    assert list(packed) == texts and len(packed) == 4
    with pytest.raises(IndexError):
        packed[4]


def test_a_missing_image_without_size_does_not_end_an_evaluation(tmp_path):
    content = coco_content({}, {"image_id": 11, "bbox": [4, 8, 120, 16]}, images=2)
    for image in content["images"]:
        del image["height"], image["width"]
    write_image(tmp_path / "0.jpg")
    path = write_json(tmp_path / "a.json", content)
    data = CocoDataset(tmp_path, path)
    assert len(data) == 2 and data.target(0).size == (48, 64)
    lost = data.target(1)
    assert lost.size == (24, 124) and len(lost.boxes) == 1  # as large as its box needs: it is missed
    assert data.problems.doubtful["image without a usable size"] == 1
    with pytest.raises(DataError):
        data[1]
    train = CocoDataset(tmp_path, path, train=True)
    assert len(train) == 1 and train.problems.left_out["image without a usable size"] == 1
