"""The same accidents in every format: each is named with its file, and no sample is lost at evaluation."""

from __future__ import annotations

import json
import pickle

import numpy as np
import PIL.Image
import pytest
from files import coco_content, write_image, write_json

from ufo.data.datasets import (
    CaptionDataset,
    CocoDataset,
    JsonlDataset,
    RefCocoDataset,
    SemanticDataset,
)
from ufo.data.datasets.conversations import ConversationDataset
from ufo.data.datasets.openimages import OpenImagesDataset
from ufo.data.datasets.reasonseg import ReasonSegDataset
from ufo.data.datasets.voc import VocDataset
from ufo.data.errors import DataError
from ufo.data.source import Source

SQUARE = [[4, 8, 24, 8, 24, 24, 4, 24]]
SAID = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "An apple"}]
SIZE = {"height": 48, "width": 64}


def coco(folder, train):
    write_json(folder / "coco.json", coco_content({}, {"image_id": 11}, images=2))
    return lambda: CocoDataset(folder, folder / "coco.json", train=train)


def openimages(folder, train):
    rows = "".join(f"{k},/m/1,0.25,0.75,0.5,1\n" for k in range(2))
    (folder / "boxes.csv").write_text("ImageID,LabelName,XMin,XMax,YMin,YMax\n" + rows)
    (folder / "names.csv").write_text("/m/1,Apple\n")
    return lambda: OpenImagesDataset(
        folder, folder / "boxes.csv", names=folder / "names.csv", train=train, masks=False
    )


def voc(folder, train):
    sides = "<xmin>3</xmin><ymin>5</ymin><xmax>22</xmax><ymax>24</ymax>"
    thing = f"<object><name>apple</name><bndbox>{sides}</bndbox></object>"
    for k in range(2):
        size = "<size><width>64</width><height>48</height></size>"
        (folder / f"{k}.xml").write_text(f"<annotation>{size}{thing}</annotation>")
    (folder / "split.txt").write_text("0\n1\n")
    return lambda: VocDataset(folder, folder / "split.txt", objects=folder, names=["apple"], train=train)


def semantic(folder, train):
    for k in range(2):
        PIL.Image.fromarray(np.ones((48, 64), dtype=np.uint8)).save(folder / f"{k}.png")
    (folder / "names.txt").write_text("sky\nland\n")
    (folder / "split.txt").write_text("0\n1\n")
    files = {"classes": folder / "names.txt", "split": folder / "split.txt"}
    return lambda: SemanticDataset(folder, folder, train=train, **files)


def captions(folder, train):
    write_json(folder / "c.json", [{"image": f"{k}.jpg", "caption": "a", "image_id": k} for k in range(2)])
    return lambda: CaptionDataset(folder, folder / "c.json", train=train)


def refcoco(folder, train):
    write_json(folder / "instances.json", coco_content({}, {"image_id": 11}, images=2))
    refs = [
        {"ref_id": k, "ann_id": 100 + k, "image_id": 10 + k, "split": "a", "sentences": [{"sent": "it"}]}
        for k in range(2)
    ]
    (folder / "refs.p").write_bytes(pickle.dumps(refs, 2))
    return lambda: RefCocoDataset(folder, folder, refs="refs.p", split="a", train=train, masks=True)


def reasonseg(folder, train):
    for k in range(2):
        shape = {"label": "target", "points": [[4, 8], [24, 8], [24, 24], [4, 24]]}
        write_json(folder / f"{k}.json", {"shapes": [shape], "text": ["it"], "is_sentence": False})
    return lambda: ReasonSegDataset(folder, train=train)


def conversations(folder, train):
    records = [{"image": f"{k}.jpg", "conversations": SAID} for k in range(2)]
    (folder / "talks.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    return lambda: ConversationDataset(folder, folder / "talks.jsonl", train=train)


def jsonl(folder, train):
    records = [{"image": f"{k}.jpg", "text": "it", "masks": [SQUARE], **SIZE} for k in range(2)]
    (folder / "texts.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    return lambda: JsonlDataset(folder, folder / "texts.jsonl", train=train)


TASKS = {
    coco: "instance_segmentation",
    openimages: "detection",
    voc: "detection",
    semantic: "semantic_segmentation",
    captions: "caption",
    refcoco: "referring_segmentation",
    reasonseg: "reasoning_segmentation",
    conversations: "vqa",
    jsonl: "referring_segmentation",
}


@pytest.fixture
def folder(tmp_path):
    for k in range(2):
        write_image(tmp_path / f"{k}.jpg")
    return tmp_path


@pytest.mark.parametrize("make", TASKS, ids=lambda make: make.__name__)
def test_missing_image(folder, make):
    """Training takes another sample; evaluation scores all of them, this one on a black picture."""
    build = make(folder, train=False), make(folder, train=True)
    (folder / "0.jpg").unlink()
    source = Source("x", TASKS[make], train=build[1], val=build[0])
    data = source.data("val")
    assert len(data) == len(source.data("train")) == 2
    with pytest.raises(DataError, match=r"0\.jpg"):
        data[0]
    assert source.evaluation_sample(0)["image"].sum() == 0 < source.evaluation_sample(1)["image"].sum()
    target = source.evaluation_sample(0)["target"]
    for objects in (target.masks, target.boxes):  # it is still there to be missed
        assert objects is None or len(objects) == 1
    assert len(data.portrait()) == 2
    assert source.sample(0, seed=0)["image"].sum() > 0
    assert source.problems("val") == source.problems("train") == (1, 0)


TEXTS = {  # the files of each format that a person may have written or cut
    coco: ("coco.json",),
    openimages: ("boxes.csv", "names.csv"),
    voc: ("0.xml", "split.txt"),
    semantic: ("names.txt", "split.txt"),
    captions: ("c.json",),
    refcoco: ("instances.json",),
    conversations: ("talks.jsonl",),
    jsonl: ("texts.jsonl",),
}
FILES = [(make, name) for make, names in TEXTS.items() for name in names]


@pytest.mark.parametrize(("make", "name"), FILES, ids=lambda value: getattr(value, "__name__", value))
def test_latin_1(folder, make, name):
    build, path = make(folder, train=True), folder / name
    path.write_bytes(path.read_bytes() + "é".encode("latin-1"))
    with pytest.raises(DataError, match=f"{name.replace('.', '[.]')}.*(UTF-8|XML)"):
        build()


CUT = [(make, name) for make, name in FILES if not name.endswith(".txt") and name != "names.csv"]


@pytest.mark.parametrize(("make", "name"), CUT, ids=lambda value: getattr(value, "__name__", value))
def test_cut_short(folder, make, name):
    build, path = make(folder, train=True), folder / name
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=f"{name.replace('.', '[.]')}.*(cut short|line 3|not valid XML)"):
        build()


@pytest.mark.parametrize("make", [coco, refcoco])
@pytest.mark.parametrize("bad", [[[4, 8, 24, 8]], {"size": [48, 64], "counts": [5]}, [[1e9] * 6]])
def test_bad_segmentation(folder, make, bad):
    """Its object is counted, and at evaluation still there."""
    content = coco_content({"segmentation": bad}, {"image_id": 11}, images=2)
    build = make(folder, train=False)
    write_json(folder / ("coco.json" if make is coco else "instances.json"), content)
    data = build()
    assert len(data) == 2 and sum(data.problems.counts.values()) == 1
    assert len(data.target(0).masks) == len(data.target(1).masks) == 1


def test_lines_without_masks_are_named(folder):
    build = jsonl(folder, train=True)
    with open(folder / "texts.jsonl", "a") as file:
        file.write(json.dumps({"image": "0.jpg", "text": "it", "bbox": [1, 2, 3, 4], **SIZE}))
    data = build()
    assert "masks" not in data.provides and len(data) == 3
    (kind,) = data.problems.first
    assert "no mask" in kind and data.problems.first[kind] == "line 3"


def test_lines_in_place_of_a_list_and_a_list_in_place_of_lines(tmp_path):
    """Which of the two a file holds, and what to do; the decoder spoke of extra data."""
    records = [{"image": "a.jpg", "text": "a bird", "bbox": [1, 2, 3, 4], **SIZE}] * 2
    lines = "".join(json.dumps(record) + "\n" for record in records)
    for text in (json.dumps(records), json.dumps(records, indent=1)):
        (tmp_path / "t.jsonl").write_text(text)
        with pytest.raises(DataError, match=r"t\.jsonl holds one JSON value.*a line of its own"):
            JsonlDataset(tmp_path, tmp_path / "t.jsonl")
    (tmp_path / "t.json").write_text(lines)
    for read in (CocoDataset, CaptionDataset):
        with pytest.raises(DataError, match=r"t\.json holds an object per line.*into one list"):
            read(tmp_path, tmp_path / "t.json")
