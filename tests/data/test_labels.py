"""Labels between reading and training: pictures found, what is refused, the split, what is written."""

from __future__ import annotations

import base64
import json
import random
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from files import write_image, write_json
from label_files import (
    CLASSES,
    HEIGHT,
    OWL,
    TIT,
    TOOLS,
    WIDTH,
    bitmap,
    cvat,
    cvat_text,
    imported,
    pictures,
    supervisely,
    yolo,
)
from pycocotools import mask as coco_mask

from ufo.data.datasets import CocoDataset, JsonlDataset
from ufo.data.errors import DataError
from ufo.data.formats import format_named
from ufo.data.labels import reading, shapes
from ufo.data.labels.outline import outlines
from ufo.data.labels.reading import Source
from ufo.data.labels.record import Labels, Picture, Thing
from ufo.data.labels.split import chosen_by_hash, divide
from ufo.data.labels.tidy import tidy
from ufo.data.labels.writing import picture_names, write
from ufo.data.problems import Problems

# ---------------------------------------------------------------- pictures


def test_pictures_are_found_by_any_spelling_but_only_below_the_folder(tmp_path):
    outside = write_image(tmp_path / "secret.jpg")
    root = tmp_path / "birds"
    for name in ("one/a.jpg", "two/a.jpg", "two/B 1.PNG"):
        write_image(root / name)
    source = Source(root)
    assert source.find("two/a.jpg") == root / "two/a.jpg"
    assert source.find("C:\\pictures\\one\\a.jpg") == root / "one/a.jpg"
    assert source.find("a.jpg", near=root / "two") == root / "two/a.jpg"
    for name in ("b 1.png", "http://host/x/b%201.png", "/data/upload/3/01234567-B%201.PNG", "?d=x%2Fb 1.png"):
        assert source.find(name) == root / "two/B 1.PNG", name
    for name in (str(outside), "../secret.jpg", "one/../../secret.jpg", "", "..", "a.jpg"):
        assert source.find(name) is None, name
    assert source.problems.left_out == {"name of several pictures": 1}


def test_links_in_a_circle_end(tmp_path):
    write_image(tmp_path / "a" / "1.jpg")
    (tmp_path / "a" / "again").symlink_to(tmp_path, target_is_directory=True)
    assert [path.name for path in reading.walk(tmp_path)] == ["1.jpg"]


def test_pictures_that_cannot_be_read_are_counted(tmp_path):
    root = yolo(tmp_path)
    path = root / "images" / "train" / "a.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    (root / "images" / "val" / "c.jpeg").write_bytes(b"no picture")
    labels = imported(format_named("yolo"), root)
    assert [p.path.name for p in labels.pictures] == ["b 1.png"]
    assert labels.problems.left_out == {"picture that cannot be read": 2}
    assert "a.jpg" in labels.problems.first["picture that cannot be read"]


def test_labels_of_another_size_are_left_out_and_turned_photos_fit(tmp_path):
    root = cvat(tmp_path / "birds")
    write_image(root / "images" / "a.jpg", 30, 40)  # smaller than its labels say
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (WIDTH, HEIGHT, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(root / "images" / "c.jpeg", exif=exif)  # stored on its side
    labels = imported(format_named("cvat"), root)
    assert labels.problems.counts == {reading.OTHER_SIZE: 1}
    assert [p.size for p in labels.pictures] == [(HEIGHT, WIDTH)] * 2


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_xml_with_entities_is_refused_in_any_encoding(tmp_path, encoding):
    pictures(tmp_path, "a.jpg")
    text = cvat_text('<image name="&b;"/>').split("?>", 1)[1]
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>' + text
    whole = f'<?xml version="1.0" encoding="{encoding}"?>{bomb}'
    (tmp_path / "annotations.xml").write_bytes(whole.encode(encoding))
    with pytest.raises(DataError, match="document type"):
        reading.xml_of(tmp_path / "annotations.xml")
    (tmp_path / "annotations.xml").write_text("<a>" * 10_000)
    with pytest.raises(DataError, match="nested too deeply"):
        reading.xml_of(tmp_path / "annotations.xml")


def test_packed_pictures_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "MAX_PACKED", 1000)
    bomb = base64.b64encode(zlib.compress(bytes(10_000))).decode()
    with pytest.raises(ValueError, match="more than 1000 bytes"):
        shapes.unpack(bomb, compressed=True)
    for bad in ("?" * 5000, 7, base64.b64encode(b"no zlib").decode()):
        with pytest.raises(ValueError, match="packed picture"):
            shapes.unpack(bad, compressed=True)
    monkeypatch.setattr(shapes, "MAX_PIXELS", 50)
    root = supervisely(tmp_path)
    monkeypatch.setattr(shapes, "MAX_PACKED", 10**6)
    figure = bitmap(np.ones((10, 10), bool), 0, 0)
    write_json(root / "val" / "ann" / "c.jpeg.json", {"tags": [], "objects": [figure]})
    labels = imported(format_named("supervisely"), root)
    assert labels.problems.left_out == {"mask of more than 50 pixels": 1}


def test_files_are_bounded(tmp_path):
    path = write_json(tmp_path / "a.json", {"a": "b" * 100})
    with pytest.raises(DataError, match="export it in parts"):
        reading.json_of(path, most=50)


@pytest.mark.parametrize("tool", TOOLS)
def test_damaged_files_end_in_a_sentence(tool, tmp_path):
    """Cut anywhere, or with numbers for texts: a DataError or a count, never another error."""
    root = TOOLS[tool](tmp_path / "birds")
    generator = random.Random(0)
    suffixes = (".json", ".jsonl", ".xml", ".csv", ".txt", ".yaml", ".md")
    for path in [p for p in root.rglob("*") if p.suffix in suffixes]:
        whole = path.read_bytes()
        for _ in range(6):
            place = generator.randrange(1, len(whole))
            damaged = [whole[:place], whole[:place] + b"\xff\x00" + whole[place:], whole.replace(b'"', b"7")]
            damaged += [whole.replace(b"owl", b""), whole.replace(b"{", b"[").replace(b"}", b"]")]
            for content in damaged:
                path.write_bytes(content)
                try:
                    imported(format_named(tool), root)
                except DataError as error:
                    assert "\n" not in str(error)
        path.write_bytes(whole)


def odd(value, generator: random.Random):
    """A JSON value with one of its parts replaced by something of another type."""
    if isinstance(value, (dict, list)) and value and generator.random() < 0.8:
        key = generator.choice(list(value) if isinstance(value, dict) else range(len(value)))
        value[key] = odd(value[key], generator)
        return value
    return generator.choice([None, [], {}, [[]], {"a": [1]}, -7, 1e300, float("nan"), True, "x", "\ud800", 3])


@pytest.mark.parametrize(
    "tool", ["labelme", "coco", "roboflow", "label_studio", "supervisely", "via", "imagefolder"]
)
def test_values_of_other_types_end_in_a_sentence_or_a_count(tool, tmp_path):
    root = TOOLS[tool](tmp_path / "birds")
    generator = random.Random(tool)
    for path in [p for p in root.rglob("*") if p.suffix in (".json", ".jsonl")]:
        whole = path.read_text()
        for _ in range(60):
            lines = whole.splitlines() if path.suffix == ".jsonl" else [whole]
            path.write_text("\n".join(json.dumps(odd(json.loads(line), generator)) for line in lines))
            try:
                imported(format_named(tool), root)
            except DataError as error:
                assert "\n" not in str(error)
        path.write_text(whole)


# ---------------------------------------------------------------- tidy


def labels_of(*things: Thing, classes: tuple[str, ...] = ()) -> Labels:
    picture = Picture(Path("a.jpg"), (HEIGHT, WIDTH), things=list(things))
    return Labels([picture], Problems("x", quiet=True), list(classes))


def test_what_cannot_be_used_is_named():
    labels = labels_of(
        Thing(OWL, (1, 2, 5, 6)),
        Thing("", (1, 2, 5, 6)),
        Thing(OWL, (5, 5, 5, 9)),
        Thing(OWL, (100, 100, 120, 120)),
        Thing(OWL),
        Thing(OWL, polygons=[[1, 1, 2, 2]]),
        Thing(OWL, (1, 2, 5, 7), polygons=[[1, 1, float("nan"), 3, 4, 9]]),
        Thing(OWL, (1, 2, 5, 6)),
        Thing(OWL, (9, 2, 5, 6)),
        Thing("tit", (1, 2, 5, 6)),
    )
    tidy(labels, [OWL])
    assert len(labels.pictures[0].things) == 2
    assert labels.problems.left_out == {
        "object without a class": 1,
        "box without area": 1,
        "box of negative size (corners in another order?)": 1,
        "object that stands there twice": 1,
        "box outside its picture": 1,
        "object without a box or shape": 1,
        "empty polygon or mask": 1,
        "object of class 'tit', which is not among the classes": 1,
    }
    assert labels.problems.doubtful == {"empty polygon or mask beside a box, which counts alone": 1}


def test_an_empty_part_of_an_object_that_has_others_is_named():
    labels = labels_of(Thing(OWL, polygons=[[1, 1, 9, 1, 9, 9], [1, 1, 2, 2]]))
    tidy(labels, [OWL])
    assert labels.problems.doubtful == {"empty polygon or mask beside others": 1}


def test_nothing_usable_is_an_error():
    with pytest.raises(DataError, match="1x box without area"):
        tidy(labels_of(Thing(OWL, (5, 5, 5, 9))))


def test_classes_keep_the_tools_order():
    labels = labels_of(Thing("b", (1, 2, 5, 6)), Thing("a", (1, 2, 5, 6)), classes=("z", "b"))
    tidy(labels)
    assert labels.classes == ["z", "b", "a"]


# ---------------------------------------------------------------- split


def test_split_depends_on_nothing_but_the_names():
    names = [f"birds/{k:03}.jpg" for k in range(40)]
    held = {name for name, out in zip(names, chosen_by_hash(names, 0.25), strict=True) if out}
    assert len(held) == 10
    # a golden value: another machine or version must divide in the same way
    assert sorted(held)[:3] == GOLDEN
    for seed in range(3):
        moved = [name.replace("birds/", "elsewhere/x/") for name in names]
        random.Random(seed).shuffle(moved)
        again = chosen_by_hash(moved, 0.25)
        assert {n.rsplit("/")[-1] for n, out in zip(moved, again, strict=True) if out} == {
            n.rsplit("/")[-1] for n in held
        }


GOLDEN = ["birds/000.jpg", "birds/003.jpg", "birds/009.jpg"]


def test_copies_of_one_picture_stay_together_and_both_sides_have_some():
    copies = [f"{k}_jpg.rf.{'ab12' * 4}{j}.jpg" for k in range(10) for j in range(3)]
    chosen = chosen_by_hash(copies, 0.2)
    assert sum(chosen) == 6
    assert all(len(set(chosen[k : k + 3])) == 1 for k in range(0, 30, 3))
    for share in (0.001, 0.999):
        assert 0 < sum(chosen_by_hash(["a.jpg", "b.jpg", "c.jpg"], share)) < 3
    with pytest.raises(DataError, match="--val 0"):
        chosen_by_hash(["a.jpg"], 0.1)


def test_own_split_counts_unless_a_share_is_given():
    made = [Picture(Path(f"{k}.jpg"), (9, 9), split) for k, split in enumerate(["train", "val", "test", ""])]
    names = [picture.path.name for picture in made]
    parts, how = divide(made, names)
    assert {k: [p.path.name for p in v] for k, v in parts.items()} == {
        "train": ["0.jpg", "3.jpg"],
        "val": ["1.jpg"],
        "test": ["2.jpg"],
    }
    assert how.startswith("the tool's own")
    assert len(divide(made, names, 0.5)[0]["val"]) == 2
    assert divide(made, names, 0)[0]["train"] == divide(made, names, 0)[0]["val"] == made
    assert divide([made[0], made[2]], names[::2])[0]["val"] == [made[2]]


# ---------------------------------------------------------------- writing


def test_what_is_written_is_what_the_loaders_read(tmp_path):
    root = cvat(tmp_path / "birds")
    labels = imported(format_named("cvat"), root)
    labels.pictures[0].things[1].text = "the tit behind"
    labels.pictures[2].things[0].text = "the last tit"
    out = tmp_path / "out"
    folder, names = picture_names(labels.pictures, out, out)
    assert folder == root / "images" and names == ["a.jpg", "b 1.png", "c.jpeg"]
    splits = {"train": labels.pictures[:2], "val": labels.pictures[2:]}
    written = write(labels, splits, dict(zip(map(id, labels.pictures), names, strict=True)), folder, out)
    assert [source.task for source in written.sources] == ["detection", "grounding"]
    assert any("masks" in note for note in labels.notes)  # only train has one
    data = CocoDataset(folder, out / "train.json", train=True)
    assert data.classes == tuple(CLASSES) and len(data) == 2
    data.serve(frozenset({"boxes", "labels"}))
    assert data[0]["boxes"].tolist() == [[4, 8, 24, 24], [10, 8, 40, 40]]
    assert not data.problems.left_out
    texts = JsonlDataset(folder, out / "expressions_train.jsonl", train=True)
    assert texts[0]["text"] == "the tit behind" and texts[0]["boxes"].tolist() == [[10, 8, 40, 40]]


# ---------------------------------------------------------------- outlines


@pytest.mark.parametrize("seed", range(4))
def test_outlines_are_within_a_pixel_of_the_mask(seed):
    generator = np.random.default_rng(seed)
    ys, xs = np.mgrid[:60, :80]
    mask = np.zeros((60, 80), bool)
    for _ in range(3):
        x, y, rx, ry = generator.uniform([20, 20, 6, 6], [60, 40, 18, 18])
        mask |= ((xs - x) / rx) ** 2 + ((ys - y) / ry) ** 2 < 1
    polygons, holes = outlines(mask)
    assert holes == 0 and sum(map(len, polygons)) < 200
    drawn = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, 60, 80))) > 0
    padded = np.pad(mask, 1)
    near = [padded[1 + dy : 61 + dy, 1 + dx : 81 + dx] for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    assert (drawn <= np.any(near, axis=0)).all() and (np.all(near, axis=0) <= drawn).all()


def test_outlines_of_parts_holes_and_corners():
    mask = np.zeros((12, 20), bool)
    mask[1:9, 1:9] = True
    mask[3:6, 3:6] = False
    mask[9, 9] = True  # touches the square at a corner: a part of its own, and too small
    mask[2:5, 12:18] = True
    polygons, holes = outlines(mask)
    assert holes == 1 and [shapes.area(p) for p in polygons] == [64, 18]
    assert outlines(np.zeros((3, 3), bool)) == ([], 0)
    assert outlines(np.ones((1, 1), bool)) == ([[0, 0, 1, 0, 1, 1, 0, 1]], 0)


def test_expressions_and_classes_of_json(tmp_path):
    """A COCO file with every kind of damage to its records is counted kind by kind."""
    root = TOOLS["coco"](tmp_path / "birds")
    path = root / "annotations" / "instances_default.json"
    content = json.loads(path.read_text())
    first = content["annotations"][0]
    content["annotations"] += [
        {**first, "image_id": 999},
        {**first, "category_id": 999},
        {**first, "bbox": [1, 2, 9, 9], "segmentation": {"size": [1, 1], "counts": "1"}},
        {**first, "bbox": [1, 2, 8, 8], "keypoints": [1, 2, 2]},
    ]
    write_json(path, content)
    labels = imported(format_named("coco"), root)
    assert labels.problems.left_out == {
        "annotation of a picture that is not in the file": 1,
        "annotation of a category that is not in the file": 1,
        "RLE of another size than its picture": 1,
    }
    assert labels.problems.doubtful == {"keypoints, of which only the box is taken": 1}
    assert [t.label for t in labels.pictures[0].things] == [OWL, TIT, OWL, OWL]
