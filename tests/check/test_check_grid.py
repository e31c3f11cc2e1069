"""Objects without a query are counted once; data without any usable object are refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from ufo.check import check_fit
from ufo.check.grid import CROWDED
from ufo.data.datasets import CocoDataset
from ufo.data.module import UFODataModule
from ufo.data.source import Source


def coco(folder: Path, counts: list[int], train: bool = True, **changes) -> CocoDataset:
    """Images with so many objects each."""
    folder.mkdir(exist_ok=True)
    images = [{"id": i, "file_name": f"{i}.png", "height": 48, "width": 64} for i in range(len(counts))]
    for image in images:
        PIL.Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(folder / image["file_name"])
    owners = [i for i, count in enumerate(counts) for _ in range(count)]
    annotations = [
        {"id": k, "image_id": i, "category_id": 1, "bbox": [k % 40, 3, 9, 9], **changes}
        for k, i in enumerate(owners)
    ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "owl"}]}
    (folder / "a.json").write_text(json.dumps(content))
    return CocoDataset(folder, folder / "a.json", train=train)


@pytest.mark.parametrize("count", [15, 16, 17, 300])
def test_objects_beyond_the_grid_are_counted(tmp_path, make_model, caplog, count):
    model = make_model()  # 4 windows of 2 x 2 queries
    source = Source("own/detection", "detection", train=lambda: coco(tmp_path, [count, 2, count]))
    data = UFODataModule([source])
    data.setup("fit")
    with caplog.at_level(logging.WARNING):
        check_fit(model, data)
    lost = 2 * max(0, count - 16)
    assert source.data("train").problems.doubtful[CROWDED] == lost
    assert sum(CROWDED in line for line in caplog.messages) == (lost > 0)
    if lost:
        where = source.data("train").problems.first[CROWDED]
        assert where == f"sample 0 has {count} objects and the grid 16 queries, 2 images are so"


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("change", [{"iscrowd": 1}, {"bbox": None}])
def test_data_without_a_usable_object_are_refused(tmp_path, split, change):
    source = Source(
        "own/detection", "detection", **{split: lambda: coco(tmp_path, [2], split == "train", **change)}
    )
    with pytest.raises(ValueError, match=f"its {split} data has a usable object.*2x"):
        source.data(split)


def test_an_image_without_objects_among_others_is_fine(tmp_path):
    source = Source("own/detection", "detection", val=lambda: coco(tmp_path, [0, 1], False))
    assert len(source.data("val")) == 2


def test_an_evaluation_does_not_read_the_training_data(tmp_path, make_model):
    """Scenes that are drawn for it have none."""

    def none() -> CocoDataset:
        raise AssertionError("nobody trains")

    source = Source("own/detection", "detection", train=none, val=lambda: coco(tmp_path, [3], train=False))
    data = UFODataModule([source])
    data.setup("validate")
    check_fit(make_model(), data, training=False)
    assert source.built == ("val",)
