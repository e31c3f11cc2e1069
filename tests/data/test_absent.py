"""What is not there: expressions of other images, and names of absent classes."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from files import coco_content, write_image, write_json
from test_refcoco import make, ref

from ufo.check.grid import UNLISTED, report_unlisted
from ufo.data.absent import WithAbsent
from ufo.data.datasets import ClassNamesDataset
from ufo.data.errors import DataError
from ufo.data.sampling import View
from ufo.data.source import Source

REFS = [
    ref(100, "train", "the left apple", "an apple"),
    ref(101, "train", "cup of the man", "the apple", image_id=11),
]


def expressions(folder, **options):
    return make(folder, [dict(r, split=options.get("split", "train")) for r in REFS], masks=True, **options)


def test_other_images_lend_what_is_not_there(tmp_path):
    """A share of the samples, after the data set's own, without an object; the same every time."""
    own = expressions(tmp_path, train=True)
    data = WithAbsent(own, 0.5)
    assert len(data) == 8 and data.objects().tolist() == [1] * 4 + [0] * 4
    for i in range(4):
        assert data[i]["text"] == own[i]["text"] and len(data[i]["boxes"]) == 1
    for i in range(4, 8):
        sample, target = data[i], data.target(i)
        assert sample["boxes"].shape == (0, 4) and sample["masks"].shape[0] == 0
        assert len(target.boxes) == 0 and target.masks == [] and target.id == i
        assert sample["text"] == target.text == data.said(i)[0] == WithAbsent(own, 0.5).said(i)[0]
        assert torch.equal(sample["image"], own[i - 4]["image"])
    # the first image has an apple: "the apple" of the second would fit, the cup does not
    assert data.said(4) == data.said(5) == ["cup of the man"]


def test_a_source_has_its_share_in_both_splits(tmp_path):
    folders = {split: tmp_path / split for split in ("train", "val")}
    source = Source(
        "own/grounding",
        "grounding",
        train=lambda: expressions(folders["train"], train=True),
        val=lambda: expressions(folders["val"], split="val"),
        absent=0.2,
    )
    assert len(source.data("train")) == len(source.data("val")) == 5
    assert source.evaluation_sample(4)["text"] == source.data("val").target(4).text
    assert [len(source.data("val").target(i).boxes) for i in range(5)] == [1, 1, 1, 1, 0]


@pytest.mark.parametrize("share", [0, 1, -0.1])
def test_a_share_out_of_range(share, tmp_path):
    with pytest.raises(ValueError, match="between 0 and 1"):
        WithAbsent(expressions(tmp_path), share)


def test_one_image_has_no_other(tmp_path):
    with pytest.raises(ValueError, match="only one image"):
        WithAbsent(View(expressions(tmp_path), np.arange(2)), 0.5)


def boxes(image, category, x, **more):
    return {"image_id": image, "category_id": category, "bbox": [x, 2, 8, 9], **more}


def names(folder, **options):
    """Two images; the first holds two of class 7 and a crowd of class 3, the second nothing."""
    for k in range(2):
        write_image(folder / "images" / f"{k}.jpg")
    annotations = boxes(10, 7, 1), boxes(10, 7, 12), boxes(10, 3, 20, iscrowd=1)
    write_json(folder / "a.json", coco_content(*annotations, images=2))
    return ClassNamesDataset(folder / "images", folder / "a.json", **options)


def test_a_class_name_means_all_objects_of_its_class(tmp_path):
    data = names(tmp_path, absent=0)
    assert len(data) == 1 and data.objects().tolist() == [2]
    target = data.target(0)
    label = data.data.category_ids.index(7)
    assert target.text == data.names[label] == data.said(0)[0]
    assert target.boxes[:, 0].tolist() == [1, 12] and len(target.masks) == 2
    assert set(data[0]) == {"image", "text"}


def test_absent_classes_are_asked_for(tmp_path):
    data = names(tmp_path, absent=0.5)
    found = [
        (data.target(i).image_id, data.objects()[i], len(data.target(i).boxes)) for i in range(len(data))
    ]
    assert [n for _, n, _ in found] == [n for _, _, n in found]
    assert sorted(n for image, n, _ in found if image == 10) == [0, 2]
    assert [n for image, n, _ in found if image == 11] == [0]
    train = names(tmp_path, absent=0.5, train=True)
    for i, number in enumerate(train.objects()):
        sample = train[i]
        assert len(sample["boxes"]) == len(sample["masks"]) == number and "labels" not in sample
    assert copy.deepcopy(train).said(0) == train.said(0)


def test_a_share_of_absent_classes_out_of_range(tmp_path):
    with pytest.raises(DataError, match="below 1, not 1"):
        names(tmp_path, absent=1)


@pytest.mark.parametrize("task", ["grounding", "referring_segmentation"])
def test_a_task_that_cannot_say_nothing_is_refused_before_training(task, tmp_path, make_model):
    model, data = make_model(), names(tmp_path, absent=0.5)
    with pytest.raises(ValueError, match=rf"own/{task}: 2 of 3 expressions.*tasks\.{task}\.nothing=true"):
        report_unlisted(model, task, data, f"own/{task}")
    model.tasks[task].nothing = True
    report_unlisted(model, task, data, f"own/{task}")
    # a box is left out, a mask joined to another
    assert data.problems.doubtful.get(UNLISTED, 0) == (task == "grounding")
