from __future__ import annotations

import numpy as np
import pytest
import torch
from files import coco_content, shared, write_image, write_json
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from torchvision import tv_tensors

from ufo.data.datasets import CocoDataset
from ufo.data.datasets.coco_file import FEDERATED
from ufo.data.datasets.naming import part_wordings, read_names
from ufo.data.errors import DataError
from ufo.data.mixer import Key
from ufo.data.module import TrainingData
from ufo.data.source import Source


def make(folder, content, **options):
    for name in ("0.jpg", "train2017/0.jpg"):
        write_image(folder / "images" / name)
    return CocoDataset(folder / "images", write_json(folder / "coco.json", content), **options)


def test_file_names_as_lvis_and_paco_give_them(tmp_path):
    content = coco_content({})
    del content["images"][0]["file_name"]
    content["images"][0]["coco_url"] = "http://images.cocodataset.org/train2017/0.jpg"
    data = make(tmp_path, content, name_key="coco_url", name_parts=2)
    assert data.target(0).image.endswith("images/train2017/0.jpg")
    assert data[0]["image"].shape == (3, 48, 64)
    with pytest.raises(DataError, match=r'no usable `file_name` \(\{"id": 10, .*correct it'):
        make(tmp_path, content)


def test_file_names_as_objects365_gives_them(tmp_path):
    content = coco_content({}, {"image_id": 11}, images=2)
    content["images"][0]["file_name"] = "images/v2/train2017/0.jpg"
    content["images"][1]["file_name"] = "images/v1/patch6/gone.jpg"
    data = make(tmp_path, content, name_parts=2)
    assert [data.target(i).image_id for i in range(2)] == [10, 11]
    some = make(tmp_path, content, name_parts=2, exclude=["patch6/gone.jpg"])
    assert [some.target(i).image_id for i in range(len(some))] == [10]
    assert some.problems.counts == {}


def test_names_are_stripped_and_can_be_replaced(tmp_path):
    """Objects365 v2 has "Formula 1 "; its published training called the classes by another list."""
    content = coco_content({"category_id": 7})
    content["categories"][1]["name"] = "apple "
    assert make(tmp_path, content).classes == ("zebra", "apple", "cup")
    (tmp_path / "names.txt").write_text("horse\npear\nmug\n")
    data = make(tmp_path, content, rename=tmp_path / "names.txt", train=True)
    assert data.classes == ("horse", "pear", "mug")
    assert data[0]["labels"].tolist() == [1]
    with pytest.raises(DataError, match="`rename` has 2 names for 3 classes"):
        make(tmp_path, content, rename=["a", "b"])


def test_objects_and_parts():
    names = ("mug_(cup)", "mug_(cup):handle", "mouse_(animal):tail", "mouse_(computer):tail", "car:wheel")
    plain, other = part_wordings(names, ":")
    assert plain == ("mug", "mug handle", "mouse_(animal) tail", "mouse_(computer) tail", "car wheel")
    assert other[1] == "the handle of the mug" and other[0] == "mug" and other[4] == "the wheel of the car"


def parts(folder, **options):
    content = coco_content({"category_id": 7}, {"category_id": 13})
    content["categories"] = [{"id": 7, "name": "car:wheel"}, {"id": 13, "name": "car"}]
    return make(folder, content, separator=":", **options)


def test_a_batch_uses_one_wording_and_evaluation_always_the_first(tmp_path):
    data = parts(tmp_path, train=True)
    assert data.classes == ("car wheel", "car")
    assert data.wordings == (("the wheel of the car", "car"),)
    source = Source(name="parts", task="instance_segmentation", train=lambda: data, val=lambda: data)
    training = TrainingData([source])
    seen = [training.__getitems__([Key(0, 0, 1, seed)] * 2).classes for seed in range(1000, 1064)]
    assert set(seen) == {data.classes, *data.wordings}
    assert seen == [training.__getitems__([Key(0, 0, 2, seed)]).classes for seed in range(1000, 1064)]
    again = parts(tmp_path)
    assert again.classes == data.classes
    batch = training.__getitems__([Key(0, 0, 1, 1001)])
    assert isinstance(batch.labels[0], torch.Tensor) and not isinstance(batch.masks[0], tv_tensors.Mask)
    assert batch.labels[0].tolist() == [0, 1]


def test_real_paco_style_file_with_index_gaps(tmp_path):
    """Ids with gaps and out of order: labels follow the file's order."""
    content = coco_content({"category_id": 900}, {"category_id": 3})
    content["categories"] = [{"id": 900, "name": "dog:ear"}, {"id": 3, "name": "dog"}]
    data = make(tmp_path, content, separator=":", train=True)
    assert data.classes == ("dog ear", "dog")
    assert data[0]["labels"].tolist() == [0, 1]


def test_real_lvis_sample(tmp_path):
    """Annotations of 100 LVIS images: names from the URL, 1230 classes, masks as pycocotools has them."""
    path = shared("lvis_sample", "lvis_val_100.json")
    api = COCO(path)
    first = next(iter(api.imgs.values()))
    write_image(tmp_path / "val2017" / first["coco_url"].rsplit("/", 1)[1], first["height"], first["width"])
    data = CocoDataset(tmp_path, path, name_key="coco_url", name_parts=2)
    assert len(data.classes) == 1230 and len(data) == 100
    assert data[0]["image"].shape == (3, first["height"], first["width"])
    seen = 0
    for i in range(0, 100, 5):
        target = data.target(i)
        expected = api.imgToAnns[target.image_id]
        names = [api.cats[a["category_id"]]["name"] for a in expected]
        assert [data.classes[k] for k in target.labels] == names
        for rle, annotation in zip(target.masks, expected, strict=True):
            assert np.array_equal(coco_mask.decode(rle), api.annToMask(annotation))
            seen += 1
    assert seen > 50 and data.problems.counts == {FEDERATED: 100}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["owl", " "], "empty name at place 2"),
        ({"owl": 3, "rook": 1}, "a list of names in label order"),
        (7, "a list of names in label order"),
        (["owl", 3], "Quote it"),
    ],
)
def test_what_is_no_list_of_names(names, said):
    with pytest.raises(DataError, match=f"`classes` .*{said}"):
        read_names(names)
