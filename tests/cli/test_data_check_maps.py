"""What `ufo data check` says of class maps and of mask files."""

import json

import numpy as np
import pytest
from test_data_check import SIZE, number_map, picture

from ufo.cli.data_folders import unused_files
from ufo.cli.data_samples import decode, map_warnings
from ufo.data.datasets import SemanticDataset


def maps(folder, draw, classes, **options):
    for i in range(3):
        picture(folder / "images" / f"{i}.jpg", i)
        number_map(folder / "maps" / f"{i}.png", draw(i))
    return SemanticDataset(folder / "images", folder / "maps", classes=classes, **options)


def halves(values):
    """A map whose left quarter has the first number, the rest the second one."""
    content = np.full(SIZE, values[1])
    content[:, :16] = values[0]
    return content


@pytest.mark.parametrize("train", [True, False])
def test_maps_of_0_and_255(tmp_path, train):
    data = maps(tmp_path, lambda i: halves((255, 0)), ["ground", "bird"], train=train)
    binary, share = map_warnings(data, decode(data, None))
    assert "nothing but 0 and 255" in binary and "`numbers: [0, 255]`" in binary
    assert share.startswith("25% of the pixels")
    meant = maps(tmp_path, lambda i: halves((255, 0)), ["ground", "bird"], numbers=[0, 255], train=train)
    seen = decode(meant, None)
    assert not list(map_warnings(meant, seen)) and seen.labels[1] == 3 * 48 * 16


def test_a_large_share_that_does_not_count(tmp_path):
    data = maps(tmp_path, lambda i: halves((255, i % 2)), ["ground", "bird"], train=True)
    (share,) = map_warnings(data, decode(data, None))
    assert "25% of the pixels" in share


def test_a_map_of_another_size_is_an_error_in_both_halves(tmp_path):
    for train in (True, False):
        data = maps(tmp_path, lambda i: halves((0, 1))[: 48 - 8 * (i == 1)], ["a", "b"], train=train)
        seen = decode(data, None)
        assert len(seen.failed) == 1 and "(40, 64)" in seen.failed[0]


def test_object_masks_that_are_lossy_or_hold_several_objects(ufo, tmp_path):
    picture(tmp_path / "images" / "a.jpg")
    number_map(tmp_path / "images" / "one.png", halves((255, 0)))
    number_map(tmp_path / "images" / "three.png", halves((2, 0)) + halves((0, 1)) * np.eye(*SIZE))
    number_map(tmp_path / "images" / "soft.jpeg", halves((255, 0)))
    lines = [
        json.dumps({"image": "a.jpg", "text": "a kite", "mask": name})
        for name in ("one.png", "three.png", "soft.jpeg")
    ]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines) + "\n")
    path = tmp_path / "set.yaml"
    path.write_text(
        f"train: {{_target_: ufo.data.datasets.JsonlDataset, _partial_: true, images: '{tmp_path}/images', "
        f"annotations: '{tmp_path}/texts.jsonl', train: true}}\n"
    )
    warnings = "\n".join(line for line in ufo("data", "check", path).out if "object mask" in line)
    assert warnings.count("\n") == 1 + ("soft.jpeg has" in warnings)  # each is said once
    assert "1x object mask in a lossy format, used all the same (first: soft.jpeg): JPEG blurs" in warnings
    assert "three.png has 3" in warnings and "one.png" not in warnings


@pytest.mark.parametrize("train", [True, False])
def test_maps_of_which_nothing_counts_are_counted_once(tmp_path, train):
    data = maps(tmp_path, lambda i: halves((255, 255 if i < 2 else 1)), ["ground", "bird"], train=train)
    kind = "label map without a pixel of any class, from which nothing is learned"
    for _ in range(2):
        decode(data, None)
        assert data.problems.doubtful == {kind: 2}
    assert data.any_pixel()
    nothing = maps(tmp_path, lambda i: halves((255, 255)), ["ground", "bird"], train=train)
    (share,) = map_warnings(nothing, decode(nothing, None))
    assert share.startswith("100% of the pixels") and not nothing.any_pixel()


def test_a_map_that_evaluation_cannot_read_is_an_error_there(tmp_path):
    for train in (True, False):
        data = maps(tmp_path, lambda i: halves((0, 1)), ["a", "b"], train=train)
        (tmp_path / "maps" / "1.png").write_bytes(b"no picture")
        seen = decode(data, None)
        assert (len(seen.failed), len(seen.refused)) == ((1, 0) if train else (0, 1))


def test_maps_without_an_image_are_named_once(tmp_path):
    """By the data set that has no list of its images, else by the folders of all splits together."""
    for name in ("a", "b", "d"):
        picture(tmp_path / "images" / "deep" / f"{name}.jpg")
    for name in ("a", "b", "c"):
        number_map(tmp_path / "maps" / "deep" / f"{name}.png", np.zeros(SIZE))
    picture(tmp_path / "images" / "deep" / "b.png")  # another b

    def read(**options):
        return SemanticDataset(tmp_path / "images", tmp_path / "maps", classes=["sky"], train=True, **options)

    whole = read()
    assert whole.problems.left_out.total() == 3 and not list(unused_files([whole]))
    assert whole.problems.first["label map without an image"] == "deep/c.png"
    (tmp_path / "train.txt").write_text("deep/a\n")
    part = read(split=tmp_path / "train.txt")
    images, alone = unused_files([part])
    assert images[1].startswith("2x image file that no record uses") and "deep/d.jpg" in images[1]
    assert alone[1].startswith("2x label map without an image") and "deep/c.png" in alone[1]
    assert not list(unused_files([part, whole]))


def test_images_and_maps_side_by_side_are_not_taken_for_each_other(tmp_path):
    for name in ("a", "b"):
        picture(tmp_path / f"{name}.jpg")
        number_map(tmp_path / f"{name}_map.png", np.zeros(SIZE))
    data = SemanticDataset(tmp_path, tmp_path, classes=["sky"], train=True, label_suffix="_map.png")
    assert not list(unused_files([data]))
