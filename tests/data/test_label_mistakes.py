"""What people's exports have wrong: encodings, spellings, numbers, names that stand twice.

Right is: read as it is meant, or one sentence that names the cure, or left out, counted and named.
"""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from files import write_image, write_json
from label_files import (
    CLASSES,
    OWL,
    TIT,
    TOOLS,
    boxes,
    coco,
    cvat,
    edit,
    imagefolder,
    label_studio,
    masks,
    pictures,
    read,
    true_boxes,
    via,
    voc,
    yolo,
)

from ufo.data.errors import DataError
from ufo.data.formats import recognised
from ufo.data.labels.reading import Source
from ufo.data.labels.shapes import pasted

TEXTS = (".json", ".jsonl", ".xml", ".csv", ".txt", ".yaml")


def rewrite(root: Path, change) -> Path:
    """Every annotation file with its text changed; what `change` gives may be bytes."""
    for path in [p for p in root.rglob("*") if p.suffix in TEXTS]:
        text = change(path.read_text(encoding="utf-8"))
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


# ---------------------------------------------------------------- encodings


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("tool", TOOLS)
def test_files_of_windows_are_recognised_and_read(tool, encoding, tmp_path):
    """With a byte order mark, or in UTF-16, as Excel, Notepad and PowerShell write them."""
    root = TOOLS[tool](tmp_path / "birds")

    def encoded(text: str) -> bytes:
        return text.replace('encoding="utf-8"', f'encoding="{encoding[:6]}"').encode(encoding)

    if tool == "voc":  # split files are read by what reads those of the releases, too
        (root / "ImageSets").rename(tmp_path / "ImageSets")
    rewrite(root, (lambda text: encoded(text.replace("utf-8", "utf-8"))) if tool != "cvat" else encoded)
    assert recognised(Source(root))[0][0].name == tool
    assert boxes(read(tool, root)) == true_boxes()


def test_text_in_another_encoding_names_the_file_and_the_byte(tmp_path):
    root = cvat(tmp_path / "birds")
    path = root / "annotations.xml"
    path.write_bytes(path.read_text().replace(OWL, "Käuzchen").encode("latin-1"))
    with pytest.raises(DataError, match=r"annotations\.xml is not UTF-8 text at byte \d+.*save it as UTF-8"):
        read("cvat", root)
    root = yolo(tmp_path / "other")
    (root / "data.yaml").write_bytes("train: images/train\nnames: [Käuzchen, tit]\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"data\.yaml is not UTF-8 text at byte"):
        read("yolo", root)


# ---------------------------------------------------------------- twice


def test_what_stands_there_twice_counts_once(tmp_path):
    """The same record again, the same file again, the same text file for two splits."""
    root = label_studio(tmp_path / "studio")
    (path,) = root.glob("*.json")
    write_json(path, json.loads(path.read_text()) * 2)
    projects = via(tmp_path / "via")
    (projects / "via_old.json").write_text((projects / "via_project.json").read_text())
    rows = TOOLS["csv"](tmp_path / "csv")
    text = (rows / "labels.csv").read_text()
    (rows / "labels.csv").write_text(f"{text}\n" + "\n".join(text.splitlines()[1:]))
    files = voc(tmp_path / "voc")
    (files / "Annotations" / "copy").mkdir()
    (files / "Annotations" / "copy" / "a.xml").write_text((files / "Annotations" / "a.xml").read_text())
    for tool, folder, number in (
        ("label_studio", root, 4),
        ("via", projects, 4),
        ("csv", rows, 4),
        ("voc", files, 2),
    ):
        labels = read(tool, folder)
        assert boxes(labels) == true_boxes()
        assert labels.problems.left_out == {"object that stands there twice": number}
    one = yolo(tmp_path / "yolo")
    (one / "data.yaml").write_text(f"train: images\nval: images\nnames: {json.dumps(CLASSES)}\n")
    labels = read("yolo", one)
    assert boxes(labels) == true_boxes() and not labels.problems.left_out
    assert not labels.problems.doubtful
    (note,) = [note for note in labels.notes if "all 3 pictures of val are those of train as well" in note]
    assert "nothing is left of val and another split is made" in note


def test_a_picture_in_two_splits_of_which_each_has_others_is_counted(tmp_path):
    one = yolo(tmp_path / "yolo")
    names = [p.relative_to(one).as_posix() for p in sorted((one / "images").rglob("*.*"))]
    (one / "train.txt").write_text("\n".join(names[:2]))
    (one / "val.txt").write_text("\n".join(names[1:]))
    (one / "data.yaml").write_text(f"train: train.txt\nval: val.txt\nnames: {json.dumps(CLASSES)}\n")
    labels = read("yolo", one)
    assert labels.problems.doubtful == {"picture in two splits, kept in the first": 1}
    assert not any("of val are those" in note for note in labels.notes)


def test_what_is_wrong_with_a_picture_of_two_splits_is_counted_once(tmp_path):
    one = yolo(tmp_path / "yolo")
    (one / "labels" / "train" / "a.txt").write_text("0 .5 .5 .2 .2\n7 .5 .5 .2 .2\n1 .5 .5\n")
    (one / "names.txt").write_text("images/train/a.jpg\nimages/train/gone.jpg\n")
    (one / "data.yaml").write_text(f"train: names.txt\nval: names.txt\nnames: {json.dumps(CLASSES)}\n")
    assert read("yolo", one).problems.left_out == {
        "object of a class number without a name": 1,
        "line that is no YOLO label": 1,
        "picture that is not there": 1,
    }


def test_a_picture_under_two_ids_and_categories_of_one_id(tmp_path):
    root = coco(tmp_path / "birds")
    path = root / "annotations" / "instances_default.json"
    edit(path, lambda c: c["images"].append({**c["images"][0], "id": 99}))
    labels = read("coco", root)
    assert boxes(labels) == true_boxes()
    assert labels.problems.doubtful == {"picture listed under several ids": 1}
    edit(path, lambda c: c["categories"].append({"id": 3, "name": "rook"}))
    with pytest.raises(DataError, match="category id 3 for 'great tit' and for 'rook'"):
        read("coco", root)


def test_class_names_that_stand_twice_are_said(tmp_path):
    root = yolo(tmp_path / "yolo")
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [owl, owl]\n")
    labels = read("yolo", root)
    assert labels.classes == [OWL] and "class 'owl' is listed 2 times, and taken as one" in labels.notes
    root = coco(tmp_path / "coco")
    edit(root / "annotations" / "instances_default.json", lambda c: c["categories"][0].update(name=OWL))
    labels = read("coco", root)
    assert labels.classes == [OWL] and any("several categories 'owl'" in note for note in labels.notes)
    root = masks(tmp_path / "maps")
    for path in root.rglob("_classes.csv"):
        path.write_text("Pixel Value, Class\n0, background\n1, owl\n2, owl\n")
    assert read("masks", root).map_classes == ["background", OWL]


def test_a_colour_or_class_twice_in_a_labelmap_is_refused(tmp_path):
    pictures(tmp_path / "JPEGImages", "a.jpg")
    (tmp_path / "SegmentationClass").mkdir()
    PIL.Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(tmp_path / "SegmentationClass" / "a.png")
    for line in ("owl:9,9,9::", "rook:5,5,5::"):
        (tmp_path / "labelmap.txt").write_text(f"background:0,0,0::\nowl:5,5,5::\n{line}\n")
        with pytest.raises(
            DataError, match=r"labelmap\.txt, line 3: a class, or a colour, that another line has"
        ):
            read("masks", tmp_path)


# ---------------------------------------------------------------- names


def test_class_names_keep_their_spelling(tmp_path):
    root = yolo(tmp_path / "yolo")
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [no, 03]\ntest: null\n")
    assert read("yolo", root).classes == ["no", "03"]
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: {0: null, 1: 1e3}\n")
    assert read("yolo", root).classes == ["null", "1e3"]
    root = imagefolder(tmp_path / "hf")
    text = (root / "README.md").read_text()
    (root / "README.md").write_text(text.replace(TIT, "off").replace(OWL, "0x1F"))
    assert read("imagefolder", root).classes == ["off", "0x1F"]
    root = coco(tmp_path / "coco")
    edit(root / "annotations" / "instances_default.json", lambda c: c["categories"][0].update(name=None))
    labels = read("coco", root)
    assert labels.classes == [OWL] and labels.problems.left_out == {"object without a class": 2}


def test_the_place_of_a_line_in_classes_txt_is_the_number(tmp_path):
    root = yolo(tmp_path)
    (root / "data.yaml").unlink()
    (root / "classes.txt").write_text("\nowl\n\n\n")
    labels = read("yolo", root)
    assert labels.problems.left_out == {"object of a class number without a name": 2}
    assert {t.label for p in labels.pictures for t in p.things} == {OWL}
    (root / "classes.txt").unlink()
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: owl\n")
    with pytest.raises(
        DataError, match=r"data.yaml: `names` is 'owl'; a list of the class names is expected, as \[owl\]"
    ):
        read("yolo", root)


def test_pictures_and_text_files_in_another_spelling_belong_together(tmp_path):
    """Capital letters in folders and suffixes, and an umlaut in two parts, as a Mac writes it."""
    root = tmp_path / "birds"
    apart = unicodedata.normalize("NFD", "Käuz chen")
    write_image(root / "Images" / f"{apart}.JPG")
    write_image(root / "Images" / "two.jpg")
    (root / "Labels").mkdir()
    (root / "Labels" / f"{unicodedata.normalize('NFC', apart)}.txt").write_text("0 .5 .5 .5 .5")
    (root / "Labels" / "TWO.TXT").write_text("0 .5 .5 .25 .25")
    (root / "Labels" / "gone.txt").write_text("0 .5 .5 .25 .25")
    (root / "notes.txt").write_text("no label")
    (root / "classes.txt").write_text("owl\n")
    labels = read("yolo", root)
    assert [len(picture.things) for picture in labels.pictures] == [1, 1]
    assert labels.problems.counts == {"text file without its picture": 1}
    assert "gone.txt" in labels.problems.first["text file without its picture"]
    rows = TOOLS["csv"](tmp_path / "csv")
    write_image(rows / "pictures" / f"{apart}.jpg")
    with open(rows / "labels.csv", "a", encoding="utf-8") as file:
        file.write("\nKÄUZ CHEN.jpg,64,48,owl,1,2,30,40")
    assert not read("csv", rows).problems.counts


def test_folders_of_another_machine_and_pictures_elsewhere(tmp_path):
    root = yolo(tmp_path / "birds")
    names = json.dumps(CLASSES)
    for base in ("D:\\sets\\birds\\", "/content/sets/birds/"):
        text = f"path: '{base}'\ntrain: '{base}images/train'\nval: '{base}images/val'\nnames: {names}\n"
        (root / "data.yaml").write_text(text)
        labels = read("yolo", root)
        assert boxes(labels) == true_boxes() and not labels.problems.counts
    (root / "images").rename(tmp_path / "elsewhere")
    (root / "data.yaml").write_text(f"train: train\nval: val\nnames: {names}\n")
    assert boxes(read("yolo", root, images=tmp_path / "elsewhere")) == true_boxes()
    root = label_studio(tmp_path / "studio")
    (path,) = root.glob("*.json")
    edit(path, lambda tasks: [t["data"].update(image=f"{t['data']['image']}?X-Amz=1&y=a.b") for t in tasks])
    rewrite(root, lambda text: text.replace("/data/upload/1/", "https://host/bucket/"))
    assert boxes(read("label_studio", root)) == true_boxes()


def test_names_in_split_files(tmp_path):
    root = voc(tmp_path)
    (root / "ImageSets" / "Main" / "train.txt").write_text("A\nB 1\ngone\n")
    (root / "ImageSets" / "Main" / "val.txt").write_text("c\na\n")
    labels = read("voc", root)
    assert {p.path.stem: p.split for p in labels.pictures} == {"a": "train", "b 1": "train", "c": "val"}
    assert labels.problems.left_out == {"name in a split file without its picture": 1}
    assert labels.problems.doubtful == {"picture in two splits, kept in the first": 1}
    rows = TOOLS["csv"](tmp_path / "csv")
    words = ["split", "Training", "holdout", "train", "evaluation"]
    lines = (rows / "labels.csv").read_text().splitlines()
    (rows / "labels.csv").write_text("\n".join(f"{a},{b}" for a, b in zip(lines, words, strict=True)))
    labels = read("csv", rows)
    assert labels.problems.doubtful["split of an unknown name, taken as none"] == 1
    assert {p.path.name: p.split for p in labels.pictures}["c.jpeg"] == "val"


# ---------------------------------------------------------------- numbers


def test_numbers_that_are_no_places(tmp_path):
    root = yolo(tmp_path / "yolo")
    (root / "labels" / "train" / "a.txt").write_text("0 .2 .2 .5 .1 30 40\n0 .5 .5 -.4 -.4\n1 .5 .5 .5 .5\n")
    labels = read("yolo", root)
    assert labels.problems.left_out == {
        "label in pixels instead of shares of the picture": 1,
        "box of negative size (corners in another order?)": 1,
    }
    root = label_studio(tmp_path / "studio")
    (path,) = root.glob("*.json")
    edit(path, lambda tasks: tasks[1]["annotations"][0]["result"][0]["value"].update(width=-5))
    assert read("label_studio", root).problems.left_out == {"rectangle of negative size": 1}
    rows = TOOLS["csv"](tmp_path / "csv")
    text = "filename,xmin,ymin,xmax,ymax,class\na.jpg,.1,.1,.5,.5,owl\nb 1.png,.25,.25,.5,1.01,owl\n"
    (rows / "labels.csv").write_text(text)  # one number is a little above 1: shares all the same
    assert boxes(read("csv", rows))["b 1.png"] == [(OWL, (16, 12, 32, 48.48))]


@pytest.mark.parametrize("place", [(99999, 3), (3, 99999), (-9, -9), (-99999, 3), (63, 47), (-2, -2)])
def test_masks_beside_their_picture(place):
    """A mask is cut where it leaves the picture, however far that is."""
    left, top = place
    found = pasted(np.ones((4, 4), np.uint8), left, top, (48, 64))
    ys, xs = np.mgrid[:48, :64]
    assert (found == ((xs >= left) & (xs < left + 4) & (ys >= top) & (ys < top + 4))).all()


def test_masks_whose_counts_are_no_text_of_runs(tmp_path):
    root = coco(tmp_path)
    shape = {"size": [48, 64], "counts": "é"}
    path = root / "annotations" / "instances_default.json"
    edit(path, lambda c: c["annotations"][0].update(segmentation=shape))
    assert read("coco", root).problems.left_out == {"RLE whose counts are no run lengths": 1}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            "{owl: 0, tit: 1}",
            r"data\.yaml: `names` has a key that is not a number \(owl, tit\); write the number",
        ),
        ("{-1: owl, 2: tit}", r"data\.yaml: `names` has the numbers -1 to 2; number classes from 0 on"),
        ("{0: owl, 100000: tit}", r"data\.yaml: `names` has the numbers 0 to 100000; number classes from 0"),
    ],
)
def test_class_numbers_of_a_yaml_are_refused_with_the_file(tmp_path, names, said):
    (tmp_path / "data.yaml").write_text(f"train: images\nnames: {names}\n")
    with pytest.raises(DataError, match=said):
        read("yolo", tmp_path)


@pytest.mark.parametrize("indent", [None, 1])
def test_metadata_of_one_list_are_no_lines(tmp_path, indent):
    (tmp_path / "metadata.jsonl").write_text(json.dumps([{"file_name": "a.jpg"}] * 2, indent=indent))
    with pytest.raises(DataError, match=r"metadata\.jsonl holds one JSON value.*a line of its own"):
        read("imagefolder", tmp_path)
