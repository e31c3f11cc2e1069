from __future__ import annotations

import csv

import numpy as np
import PIL.Image
import pytest
import torch
from files import write_image, write_json
from pycocotools import mask as coco_mask

from ufo.data.datasets.openimages import OpenImagesDataset, read_parents
from ufo.data.errors import DataError
from ufo.data.prepare import preparations

# columns as in the release
HEADER = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,"
    "IsInside,XClick1X,XClick2X,XClick3X,XClick4X,XClick1Y,XClick2Y,XClick3Y,XClick4Y"
)
NAMES = "/m/011k07,Tortoise\n/m/0cmf2,Airplane\n/m/0jbk,Animal\n"
MASK_HEADER = "MaskPath,ImageID,LabelName,BoxID,BoxXMin,BoxXMax,BoxYMin,BoxYMax,PredictedIoU,Clicks"
ANIMAL, TORTOISE, AIRPLANE = "/m/0jbk", "/m/011k07", "/m/0cmf2"
HIERARCHY = {
    "LabelName": "/m/0bl9f",
    "Subcategory": [
        {"LabelName": ANIMAL, "Subcategory": [{"LabelName": TORTOISE}]},
        {"LabelName": AIRPLANE, "Part": [{"LabelName": ANIMAL}]},
    ],
}


def box(image: str, label: str, corners=(0.25, 0.75, 0.5, 1.0), group: int = 0) -> str:
    x1, x2, y1, y2 = corners
    return f"{image},xclick,{label},1,{x1},{x2},{y1},{y2},0,0,{group},0,0" + ",-1" * 8


def make(root, *rows: str, header: str = HEADER, images=("a", "b")):
    """The data folder as unpacked: 48 x 64 images, csv files."""
    home = root / "OpenImages"
    for name in images:
        write_image(home / "OpenImages" / "train" / f"{name}.jpg")
    folder = home / "annotations"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "class-descriptions-boxable.csv").write_text(NAMES)
    (folder / "oidv6-train-annotations-bbox.csv").write_text("\n".join([header, *rows]) + "\n")
    return home


def boxes(home, **options) -> OpenImagesDataset:
    return OpenImagesDataset(
        home / "OpenImages" / "train",
        home / "annotations" / "oidv6-train-annotations-bbox.csv",
        names=home / "annotations" / "class-descriptions-boxable.csv",
        **{"masks": False, **options},
    )


def test_boxes_become_pixels_and_rows_of_one_image_belong_together(tmp_path):
    home = make(tmp_path, box("b", AIRPLANE), box("a", TORTOISE, (0, 1, 0, 1)), box("b", ANIMAL))
    data = boxes(home, train=True)
    assert data.classes == ("Tortoise", "Airplane", "Animal")
    assert data.provides == {"boxes", "labels"}
    assert [data.target(i).image_id for i in range(2)] == ["b", "a"]
    assert data[0]["boxes"].tolist() == [[16, 24, 48, 48]] * 2
    assert data[0]["labels"].tolist() == [1, 2]
    assert data[1]["boxes"].tolist() == [[0, 0, 64, 48]]
    # the last image's path is its own (the reference's was the previous one's)
    assert data.target(1).image.endswith("/a.jpg")
    assert not data.problems.counts


@pytest.mark.parametrize(
    ("group_of", "trained", "seen"),
    [("crowd", 1, [False, True]), ("object", 2, [False] * 2), ("drop", 1, [False])],
)
def test_boxes_around_groups(tmp_path, group_of, trained, seen):
    home = make(tmp_path, box("a", TORTOISE), box("a", ANIMAL, group=1))
    assert len(boxes(home, train=True, group_of=group_of)[0]["boxes"]) == trained
    assert boxes(home, group_of=group_of).target(0).iscrowd.tolist() == seen
    with pytest.raises(DataError, match="`group_of` must be one of crowd, drop, object"):
        boxes(home, group_of="some")


def test_hierarchy_adds_the_parents(tmp_path):
    home = make(tmp_path, box("a", TORTOISE), box("a", AIRPLANE))
    hierarchy = write_json(home / "annotations" / "bbox_labels_600_hierarchy.json", HIERARCHY)
    data = boxes(home, train=True, hierarchy=hierarchy)
    assert data[0]["labels"].tolist() == [0, 2, 1]
    assert not data.problems.counts
    assert read_parents(hierarchy, {TORTOISE: 0, AIRPLANE: 1, ANIMAL: 2, "/m/0bl9f": 3}) == {
        0: (2, 3),
        1: (3,),
        2: (3,),
    }
    write_json(hierarchy, [])
    with pytest.raises(DataError, match="not a class hierarchy"):
        boxes(home, hierarchy=hierarchy)


def test_sizes_come_from_the_preparation(tmp_path):
    home = make(tmp_path, box("a", TORTOISE), box("gone", ANIMAL))
    preparations()["openimages"].run(tmp_path)
    sizes = home / "annotations" / "train-image-sizes.csv"
    assert sizes.read_text().splitlines() == ["ImageID,Height,Width", "a,48,64"]
    sizes.write_text("ImageID,Height,Width\na,480,640\ngone,10,20\n")
    data = boxes(home, sizes=sizes)
    assert data.target(0).boxes.tolist() == [[160, 240, 480, 480]]
    assert data.target(1).size == (10, 20)
    with pytest.raises(DataError, match="run `ufo data prepare openimages`"):
        boxes(home, sizes=tmp_path / "none.csv")


def test_a_missing_image_stays_and_is_named(tmp_path, caplog):
    data = boxes(make(tmp_path, box("gone", TORTOISE), box("a", ANIMAL)))
    assert "1 images can't be read (first: " in caplog.text and "gone.jpg" in caplog.text
    assert len(data) == 2
    with pytest.raises(DataError, match=r"gone\.jpg"):
        data[0]
    target = data.target(0)  # in shares of the image the box is right
    height, width = target.size
    assert target.boxes.tolist() == [[0.25 * width, 0.5 * height, 0.75 * width, height]]


@pytest.mark.parametrize(
    ("rows", "header", "match"),
    [
        (
            [box("a", TORTOISE)],
            HEADER.replace("XMax", "Right"),
            "no column XMax; its header is ImageID,",
        ),
        (
            [box("a", TORTOISE), "a,xclick,/m/0jbk,1,0.2"],
            HEADER,
            "line 3: 5 fields instead of 21",
        ),
        ([box("a", TORTOISE, ("left", 1, 0, 1))], HEADER, "line 2: a box needs four numbers"),
        ([box("a", TORTOISE)], "", "has no column ImageID; its header is empty"),
    ],
    ids=["columns", "cut", "number", "header"],
)
def test_broken_csv(tmp_path, rows, header, match):
    home = make(tmp_path, *rows, header=header)
    with pytest.raises(DataError, match=match):
        boxes(home)


def test_no_rows(tmp_path):
    assert len(boxes(make(tmp_path))) == 0


def test_latin_1_text(tmp_path):
    home = make(tmp_path, box("a", TORTOISE))
    path = home / "annotations" / "oidv6-train-annotations-bbox.csv"
    path.write_bytes(path.read_bytes() + "é".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        boxes(home)


def test_unknown_label_is_counted(tmp_path):
    data = boxes(make(tmp_path, box("a", "/m/none"), box("a", ANIMAL)), train=True)
    assert data[0]["labels"].tolist() == [2]
    assert data.problems.counts == {"category that is not in the file": 1}


def test_index_on_disk_belongs_to_all_files_that_it_was_made_from(tmp_path, monkeypatch):
    monkeypatch.setattr("ufo.data.index.SMALL", 0)
    home = make(tmp_path, box("a", TORTOISE), box("a", ANIMAL, group=1))
    sizes = home / "annotations" / "train-image-sizes.csv"
    sizes.write_text("ImageID,Height,Width\na,48,64\n")
    first = boxes(home, sizes=sizes)
    assert len(list((home / "annotations").rglob("*.arrow"))) == 1
    monkeypatch.setattr(OpenImagesDataset, "_records", None)  # not read again
    again = boxes(home, sizes=sizes)
    assert torch.equal(again.target(0).boxes, first.target(0).boxes)
    assert again.target(0).image_id == "a"
    monkeypatch.undo()
    monkeypatch.setattr("ufo.data.index.SMALL", 0)
    assert boxes(home, sizes=sizes, group_of="object").target(0).iscrowd.tolist() == [False, False]
    sizes.write_text("ImageID,Height,Width\na,480,640\n")
    assert boxes(home, sizes=sizes).target(0).size == (480, 640)


# --- masks


def write_mask(home, name: str, mask) -> None:
    path = home / "segmentation" / "train" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.asarray(mask, dtype=bool)).save(path)


def masked(root, *rows: str):
    home = make(root, box("a", TORTOISE), box("b", ANIMAL))
    path = home / "annotations" / "train-annotations-object-segmentation.csv"
    path.write_text("\n".join([MASK_HEADER, *rows]) + "\n")
    return home


def mask_row(image: str, label: str, path: str) -> str:
    return f"{path},{image},{label},01,0.25,0.75,0.5,1.0,0.9,"


def test_png_masks_become_rle_of_the_images_size(tmp_path):
    home = masked(tmp_path, mask_row("b", ANIMAL, "b_1.png"), mask_row("a", TORTOISE, "a_1.png"))
    mask = np.zeros((48, 64), dtype=bool)
    mask[24:48, 16:48] = True
    write_mask(home, "a_1.png", mask)
    write_mask(home, "b_1.png", mask[::2, ::2])  # half as large as its image
    for name in ("openimages", "openimages_masks"):
        preparations()[name].run(tmp_path)
    path = home / "annotations" / "train-masks-rle.csv"
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["ImageID"] for row in rows] == ["a", "b"]  # sorted by image
    data = OpenImagesDataset(
        home / "OpenImages" / "train",
        path,
        names=home / "annotations" / "class-descriptions-boxable.csv",
        sizes=home / "annotations" / "train-image-sizes.csv",
        train=True,
    )
    assert data.provides == {"boxes", "labels", "masks"}
    for i in range(2):
        assert torch.equal(data[i]["masks"][0].bool(), torch.from_numpy(mask))
        assert data[i]["boxes"].tolist() == [[16, 24, 48, 48]]
        assert data.target(i).area.tolist() == [mask.sum()]
    assert not list((home / "annotations").glob(".preparing*"))


def test_unusable_masks_keep_their_object(tmp_path, caplog):
    home = masked(
        tmp_path,
        mask_row("a", TORTOISE, "none.png"),
        mask_row("a", ANIMAL, "../../../secret.png"),
        mask_row("b", ANIMAL, "b_1.png"),
    )
    write_image(tmp_path / "secret.png")
    write_mask(home, "b_1.png", np.ones((48, 64)))
    preparations()["openimages_masks"].run(tmp_path)
    assert "2x mask that can't be read" in caplog.text
    data = OpenImagesDataset(
        home / "OpenImages" / "train",
        home / "annotations" / "train-masks-rle.csv",
        names=home / "annotations" / "class-descriptions-boxable.csv",
    )
    target = data.target(0)
    assert target.iscrowd.tolist() == [True, True]  # neither found nor missed
    assert [int(coco_mask.area(rle)) for rle in data.target(1).masks] == [48 * 64]


def test_preparation_without_files(tmp_path):
    with pytest.raises(DataError, match=r"root folder .*OpenImages does not exist"):
        preparations()["openimages"].run(tmp_path)
    (tmp_path / "OpenImages" / "annotations").mkdir(parents=True)
    for name in ("openimages", "openimages_masks"):
        with pytest.raises(DataError, match="has no"):
            preparations()[name].run(tmp_path)
    home = make(tmp_path, box("a", TORTOISE))
    names = home / "annotations" / "class-descriptions-boxable.csv"
    with pytest.raises(DataError, match="run `ufo data prepare openimages_masks`"):
        OpenImagesDataset(home, home / "annotations" / "train-masks-rle.csv", names=names)
