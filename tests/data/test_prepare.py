"""Conversions of files in the form of each release, and the runner that they share."""

from __future__ import annotations

import base64
import json
import logging
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import scipy.io
import torch
from files import coco_content, write_image, write_json
from pycocotools import mask as coco_mask

from ufo.data.datasets import CocoDataset, SemanticDataset
from ufo.data.errors import DataError
from ufo.data.prepare import preparations
from ufo.data.prepare.labels import CITYSCAPES, COCO_STUFF
from ufo.data.prepare.runner import run_shards, writing
from ufo.data.problems import Problems

VOCAB = Path(__file__).parents[2] / "conf" / "vocab"


def write_label(path: Path, labels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.asarray(labels, dtype=np.uint8)).save(path)


def read_label(path: Path) -> list:
    return np.asarray(PIL.Image.open(path)).tolist()


# --- the runner


def double(number: int, log: Path | None = None) -> int | None:
    """Of a module, so that other processes find it."""
    if log is not None:
        with open(log, "a") as file:
            file.write(f"{number}\n")
    if number == 13:
        raise DataError("thirteen")
    if number == 99:
        raise KeyboardInterrupt
    return 2 * number if number % 2 else None


def run(work, items, scratch, problems=None, **options) -> list[int]:
    options = {"fingerprint": "x", "workers": 1, "title": "test", "shard": 3, **options}
    return list(run_shards(work, items, scratch, problems=problems or Problems("test"), **options))


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_results_keep_their_order_and_unusable_items_are_counted(tmp_path, workers):
    problems = Problems("test")
    found = run(double, range(20), tmp_path / "s", problems, workers=workers)
    assert found == [2 * n for n in range(20) if n % 2 and n != 13]
    assert problems.counts == {"unusable": 1} and problems.first == {"unusable": "thirteen"}
    assert run(double, [], tmp_path / "empty", workers=workers) == []


def test_an_interrupted_run_goes_on_where_it_was(tmp_path):
    log, items = tmp_path / "log", [1, 2, 3, 5, 7, 9, 99, 11]
    with pytest.raises(KeyboardInterrupt):
        run(partial(double, log=log), items, tmp_path / "s")
    items[6] = 4
    assert run(partial(double, log=log), items, tmp_path / "s") == [2, 6, 10, 14, 18, 22]
    assert [int(n) for n in log.read_text().split()] == [1, 2, 3, 5, 7, 9, 99, 4, 11]
    # finished: nothing is done again; another input: all of it is
    run(partial(double, log=log), items, tmp_path / "s")
    assert len(log.read_text().split()) == 9
    run(partial(double, log=log), items, tmp_path / "s", fingerprint="y")
    assert len(log.read_text().split()) == 17


def test_files_appear_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), writing(tmp_path / "a") as file:
        file.write("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with writing(tmp_path / "a") as file:
        file.write("whole")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["whole"]


def test_every_conversion_says_what_it_does(tmp_path):
    found = preparations()
    assert {"openimages", "openimages_masks", "coco_stuff", "nuimages", "nuimages_seg", "objects365"} <= set(
        found
    )
    for name, conversion in found.items():
        assert conversion.name == name and len(conversion.about) > 20
        with pytest.raises(DataError, match="does not exist"):
            conversion.run(tmp_path)
        with pytest.raises(DataError, match="`workers` must be at least 1"):
            conversion.run(tmp_path, workers=0)


# --- label maps


def test_coco_stuff(tmp_path, caplog):
    folder = tmp_path / "coco_stuff164k" / "annotations" / "train2017"
    write_label(folder / "000000000009.png", [[0, 10, 12], [181, 255, 91]])
    (folder / "000000000025.png").write_bytes(b"no image")
    preparations()["coco_stuff"].run(tmp_path)
    assert read_label(folder / "000000000009_labelTrainIds.png") == [[0, 10, 11], [170, 255, 80]]
    assert "000000000025.png" in caplog.text
    write_image(tmp_path / "images" / "000000000009.jpg", 2, 3)
    classes = VOCAB / "coco_stuff_classes.txt"
    options = {"classes": classes, "label_suffix": "_labelTrainIds.png"}
    data = SemanticDataset(tmp_path / "images", folder, train=True, **options)
    names = [data.classes[k] for k in data[0]["semantic"].flatten().tolist() if k != 255]
    assert names == ["person", "fire hydrant", "stop sign", "wood", "banner"]
    assert len(COCO_STUFF) == len(data.classes) == 171
    # converted maps are no maps to convert: a second run has nothing to do
    before = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    preparations()["coco_stuff"].run(tmp_path)
    assert {p: p.stat().st_mtime_ns for p in folder.iterdir()} == before


def test_cityscapes(tmp_path):
    stem = "aachen/aachen_000000_000019"
    labels, images = tmp_path / "cityscapes" / "gtFine" / "train", tmp_path / "images"
    write_label(labels / f"{stem}_gtFine_labelIds.png", [[0, 7, 8, 33, 4]])
    write_image(images / f"{stem}_leftImg8bit.png", 1, 5)
    preparations()["cityscapes"].run(tmp_path)
    suffixes = {"image_suffix": "_leftImg8bit.png", "label_suffix": "_gtFine_labelTrainIds.png"}
    data = SemanticDataset(images, labels, classes=VOCAB / "cityscapes_classes.txt", train=True, **suffixes)
    assert data[0]["semantic"].tolist() == [[255, 0, 1, 18, 255]]
    assert len(data.classes) == len(CITYSCAPES) == 19
    # the original maps can also be read as they are
    suffixes["label_suffix"] = "_gtFine_labelIds.png"
    options = {"numbers": CITYSCAPES, "unused": [0, 4], "train": True, **suffixes}
    raw = SemanticDataset(images, labels, classes=VOCAB / "cityscapes_classes.txt", **options)
    assert torch.equal(raw[0]["semantic"], data[0]["semantic"]) and not raw.problems.counts


def test_pascal_context(tmp_path, caplog):
    home = tmp_path / "VOCdevkit" / "VOC2010"
    release = home / "pascal_context"
    (release / "trainval").mkdir(parents=True)
    release.joinpath("labels.txt").write_text("1: accordion\n2: aeroplane\n23: bed clothes\n397: unknown\n")
    release.joinpath("59_labels.txt").write_text("1: aeroplane\n2: bedclothes\n")
    raw = np.array([[2, 23, 397], [1, 2, 2]], dtype=np.uint16)
    scipy.io.savemat(release / "trainval" / "2008_000002.mat", {"LabelMap": raw})
    (release / "trainval" / "2008_000003.mat").write_bytes(b"MATLAB")
    for split, names in (("train", "2008_000002\n2008_000099\n"), ("val", "2008_000003\n")):
        path = home / "ImageSets" / "Main" / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(names)
    preparations()["pascal_context"].run(tmp_path)
    assert read_label(home / "SegmentationClassContext" / "2008_000002.png") == [[1, 2, 0], [0, 1, 1]]
    assert (home / "ImageSets" / "SegmentationContext" / "train.txt").read_text() == "2008_000002\n"
    assert "2008_000003.mat is not a MATLAB file" in caplog.text
    release.joinpath("59_labels.txt").write_text("1: spaceship\n")
    with pytest.raises(DataError, match="has no label spaceship"):
        preparations()["pascal_context"].run(tmp_path)


# --- Pascal-Part


def mat(path: Path, *things: tuple[str, list[tuple[str, tuple[int, int, int, int]]]]) -> None:
    """An annotation as in the release: structs `anno.objects(i).parts(k)`."""

    def mask(x1, y1, x2, y2):
        out = np.zeros((48, 64), dtype=np.uint8)
        out[y1:y2, x1:x2] = 1
        return out

    objects = np.empty((1, len(things)), dtype=object)
    for i, (name, parts) in enumerate(things):
        several = np.empty((1, len(parts)), dtype=object)
        for k, (part, box) in enumerate(parts):
            several[0, k] = {"part_name": part, "mask": mask(*box)}
        objects[0, i] = {"class": name, "class_ind": 1, "mask": mask(0, 0, 64, 48), "parts": several}
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"anno": {"imname": path.stem, "objects": objects}})


def test_pascal_part(tmp_path, caplog):
    home = tmp_path / "pascal_part"
    annotations, voc = home / "Annotations_Part", home / "VOCdevkit" / "VOC2010"
    dog = ("dog", [("lfleg", (4, 8, 10, 20)), ("rbpa", (30, 30, 40, 40)), ("rear", (0, 0, 0, 0))])
    mat(annotations / "2008_000002.mat", dog, ("bus", [("fliplate", (1, 1, 5, 5)), ("roof", (0, 0, 9, 9))]))
    mat(annotations / "2008_000003.mat", ("person", [("hair", (2, 2, 12, 12))]))
    mat(annotations / "2008_000004.mat", ("chair", []))
    (annotations / "2008_000005.mat").write_bytes(b"MATLAB")
    write_image(voc / "JPEGImages" / "2008_000002.jpg")
    (voc / "ImageSets" / "Main").mkdir(parents=True)
    names = "2008_000002", "2008_000004", "2008_000005", "2008_000006"
    (voc / "ImageSets" / "Main" / "train.txt").write_text("\n".join(names))
    (voc / "ImageSets" / "Main" / "val.txt").write_text("2008_000003\n")
    preparations()["pascal_part"].run(tmp_path)
    data = CocoDataset(voc / "JPEGImages", home / "train.json", separator=":", train=True)
    assert len(data.classes) == 93 and len(data) == 1  # the empty ear and the roof are no parts
    sample = data[0]
    assert [data.classes[k] for k in sample["labels"]] == ["dog leg", "dog paw", "bus license plate"]
    assert data.wordings[0][sample["labels"][2]] == "the license plate of the bus"
    assert sample["boxes"].tolist() == [[4, 8, 10, 20], [30, 30, 40, 40], [1, 1, 5, 5]]
    assert sample["masks"].sum((1, 2)).tolist() == [72, 100, 16]
    assert "2008_000005.mat is not an annotation" in caplog.text and "2x unusable" in caplog.text
    assert [i["id"] for i in json.loads((home / "val.json").read_text())["images"]] == [2008000003]


# --- nuImages

HEIGHT, WIDTH = 48, 64


def rle(x1: int, y1: int, x2: int, y2: int) -> dict:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
    mask[y1:y2, x1:x2] = 1
    counts = base64.b64encode(coco_mask.encode(mask)["counts"]).decode()
    return {"size": [HEIGHT, WIDTH], "counts": counts}


def nuimages(root: Path, **changes) -> Path:
    """The tables of a split with two key frames, one of them without annotations, and a sweep."""
    home = root / "nuimages"
    categories = ["vehicle.car", "vehicle.bus.rigid", "animal", "flat.driveable_surface", "vehicle.ego"]
    frames = [
        ("s1", "CAM_FRONT/b.jpg", True),
        ("s2", "CAM_BACK/a.jpg", True),
        ("s3", "CAM_BACK/c.jpg", False),
    ]
    sizes = {"height": HEIGHT, "width": WIDTH}
    tables = {
        "category": [{"token": f"c{k}", "name": name} for k, name in enumerate(categories)],
        "sample_data": [
            {"token": t, "filename": f"samples/{name}", "is_key_frame": key, "fileformat": "jpg", **sizes}
            for t, name, key in frames
        ],
        "object_ann": [
            ann("o2", "c0", [4, 8, 24, 24]),
            ann("o1", "c1", [10, 10, 40, 30]),
            ann("o3", "c2", [0, 0, 4, 4]),
            {**ann("o4", "c0", [50, 40, 60, 44]), "mask": None},
        ],
        "surface_ann": [ann("f1", "c3", [0, 24, 64, 48]), ann("f2", "c4", [0, 44, 64, 48])],
        **changes,
    }
    for name, rows in tables.items():
        write_json(home / "v1.0-train" / f"{name}.json", rows)
    for _, name, _ in frames:
        write_image(home / "samples" / name)
    return home


def ann(token: str, category: str, box: list[int]) -> dict:
    record = {"token": token, "sample_data_token": "s1", "category_token": category, "attribute_tokens": []}
    return {**record, "bbox": box, "mask": rle(*box)}


def test_nuimages_boxes_and_masks(tmp_path):
    home = nuimages(tmp_path)
    path = home / "annotations" / "nuimages_v1.0-train.json"
    for _ in range(2):
        preparations()["nuimages"].run(tmp_path)
        made = path.stat().st_mtime_ns
    preparations()["nuimages"].run(tmp_path)
    assert path.stat().st_mtime_ns == made  # what is done is left as it is
    data = CocoDataset(home, path, train=True)
    assert data.classes[:4] == ("car", "truck", "trailer", "bus") and len(data.classes) == 10
    assert len(data) == 1 and data.target(0).image.endswith("samples/CAM_FRONT/b.jpg")
    sample = data[0]
    assert [data.classes[k] for k in sample["labels"]] == ["bus", "car"]  # by token; animals are no class
    assert sample["boxes"].tolist() == [[10, 10, 40, 30], [4, 8, 24, 24]]
    assert sample["masks"].sum((1, 2)).tolist() == [30 * 20, 20 * 16]
    assert data.problems.counts == {"no segmentation": 1, "image without objects": 1}
    everything = CocoDataset(home, path)
    assert len(everything) == 2  # key frames only, also those without objects
    assert everything.target(1).iscrowd.tolist() == [False, False, True]


def test_nuimages_label_maps(tmp_path):
    nuimages(tmp_path)
    preparations()["nuimages_seg"].run(tmp_path)
    out = tmp_path / "nuimages_seg"
    options = {"classes": VOCAB / "nuimages_classes.txt", "reduce_zero_label": True, "train": True}
    data = SemanticDataset(out / "images" / "training", out / "annotations" / "training", **options)
    assert len(data) == 2 and len(data.classes) == 31
    assert (data[0]["semantic"] == 255).all()  # a frame without annotations
    labels = np.asarray(data[1]["semantic"]).astype(int) + 1
    labels[labels == 256] = 0
    expected = np.zeros((HEIGHT, WIDTH), dtype=int)
    expected[24:48] = 24  # surfaces first, the ego vehicle over the road, then objects by token
    expected[44:48] = 31
    expected[10:30, 10:40] = 2
    expected[8:24, 4:24] = 3
    expected[0:4, 0:4] = 1
    assert np.array_equal(labels, expected)
    assert data.classes[23] == "driveable_surface" and data.classes[30] == "ego vehicle"


def test_numbers_of_all_nuimages_categories_are_those_of_the_class_list(tmp_path):
    """The 23 objects in alphabetical order, as the class list has them."""
    names = [
        "animal human.pedestrian.adult human.pedestrian.child human.pedestrian.construction_worker",
        "human.pedestrian.personal_mobility human.pedestrian.police_officer human.pedestrian.stroller",
        "human.pedestrian.wheelchair movable_object.barrier movable_object.debris",
        "movable_object.pushable_pullable movable_object.trafficcone static_object.bicycle_rack",
        "vehicle.bicycle vehicle.bus.bendy vehicle.bus.rigid vehicle.car vehicle.construction",
        "vehicle.emergency.ambulance vehicle.emergency.police vehicle.motorcycle vehicle.trailer",
        "vehicle.truck flat.driveable_surface vehicle.ego",
    ]
    from ufo.data.prepare.nuimages import Tables

    rows = [{"token": name, "name": name} for name in " ".join(names).split()]
    home = nuimages(tmp_path, category=rows[::-1])
    numbers = Tables(home / "v1.0-train").numbers()
    classes = (VOCAB / "nuimages_classes.txt").read_text().splitlines()
    for name, number in numbers.items():
        last = name.split(".")[-1].split("_")[0][:6]
        assert last in classes[number - 1] or last in {"person", "traffi"}, (name, classes[number - 1])


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"object_ann": [ann("o1", "?", [0, 0, 9, 9])]}, "unknown category"),
        (
            {"object_ann": [{"token": "o1"}]},
            "object_ann.* is not a table .* lacks token, ",
        ),
        (
            {"object_ann": [{**ann("o", "c0", [0, 0, 9, 9]), "mask": {"size": [9, 9], "counts": "!"}}]},
            "not an RLE",
        ),
    ],
)
def test_broken_tables(tmp_path, changes, match):
    nuimages(tmp_path, **changes)
    with pytest.raises(DataError, match=match):
        preparations()["nuimages"].run(tmp_path)
    assert not (tmp_path / "nuimages" / "annotations").exists()


# --- Objects365


def test_objects365_images_get_the_paths_of_the_file(tmp_path, caplog):
    home = tmp_path / "Objects365" / "Obj365_v2"
    content = coco_content(*({"image_id": 10 + k} for k in range(4)), images=4)
    names = [
        "images/v1/patch0/a.jpg",
        "images/v1/patch8/b.jpg",
        "images/v2/patch16/c.jpg",
        "images/v2/patch16/d.jpg",
    ]
    for image, name in zip(content["images"], names, strict=True):
        image["file_name"] = name
    write_json(home / "annotations" / "zhiyuan_objv2_train.json", content)
    write_image(home / "train" / "patch0" / "a.jpg")  # where it should be
    write_image(home / "train" / "images" / "v1" / "patch8" / "b.jpg")  # a folder too deep
    write_image(home / "c.jpg")
    for _ in range(2):  # a second run changes nothing
        with caplog.at_level(logging.WARNING):
            preparations()["objects365"].run(tmp_path)
    data = CocoDataset(home / "train", home / "annotations" / "zhiyuan_objv2_train.json", name_parts=2)
    assert [data[i]["image"].shape for i in range(3)] == [(3, 48, 64)] * 3
    assert (home / "annotations" / "missing_train.txt").read_text() == "patch16/d.jpg\n"
    assert "patch16/d.jpg" in caplog.text
    assert not (home / "train" / "patch0" / "a.jpg").is_symlink()


def test_objects365_in_the_wrong_folder(tmp_path):
    home = tmp_path / "Objects365" / "Obj365_v2"
    write_json(home / "annotations" / "zhiyuan_objv2_val.json", coco_content({}))
    with pytest.raises(DataError, match="None of the 1 images"):
        preparations()["objects365"].run(tmp_path)
    cut = json.dumps(coco_content({}))[:300]
    (home / "annotations" / "zhiyuan_objv2_val.json").write_text(cut)
    with pytest.raises(DataError, match="cut short"):
        preparations()["objects365"].run(tmp_path)
