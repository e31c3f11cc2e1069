"""Where the label tools keep pictures, classes and labels: folders, lists, maps of classes, tables."""

from __future__ import annotations

import json

import numpy as np
import PIL.Image
import pytest
from label_files import (
    CLASSES,
    HEIGHT,
    OWL,
    TIT,
    WIDTH,
    boxes,
    imported,
    masks,
    pictures,
    voc,
    yolo,
)
from label_shapes import only

from ufo.data.datasets.coco_file import LEAVING
from ufo.data.formats import format_named
from ufo.data.formats.masks import NO_COLOUR, NO_NUMBER
from ufo.data.labels.finding import ONE_PICTURE
from ufo.data.labels.reading import OWN_NAME


@pytest.mark.parametrize(
    ("train", "val", "names"),
    [
        ("train/images", "valid/images", "[great tit, owl]"),
        ("../train/images", "../valid/images", "{0: great tit, 1: owl}"),
        ("train.txt", "valid.txt", "{1: owl, 0: great tit}"),
        ("[train/images]", "./valid/images/", "['great tit', \"owl\"]"),
    ],
)
def test_yolo_layouts(tmp_path, train, val, names):
    first = yolo(tmp_path / "first")
    root = tmp_path / "birds"
    for split, ours in {"train": "train", "val": "valid"}.items():
        for kind in ("images", "labels"):
            (root / ours / kind).parent.mkdir(parents=True, exist_ok=True)
            (first / kind / split).rename(root / ours / kind)
        listed = sorted((root / ours / "images").iterdir())
        (root / f"{ours}.txt").write_text("".join(f"./{p.relative_to(root)}\n" for p in listed))
    (root / "data.yaml").write_text(f"path: ../datasets/birds\ntrain: {train}\nval: {val}\nnames: {names}\n")
    labels = imported(format_named("yolo"), root)
    assert labels.classes == CLASSES
    assert [p.split for p in labels.pictures] == ["train", "train", "val"]
    assert boxes(labels)["c.jpeg"] == [(TIT, (30, 20, 50, 41))] and not labels.problems.counts


def test_yolo_without_yaml_and_with_bad_lines(tmp_path):
    pictures(tmp_path, "a.jpg", "c.jpeg")
    (tmp_path / "classes.txt").write_text("great tit\nowl\n")
    lines = ["1 .5 .5 .5 .5", "7 .5 .5 .5 .5", "1 .5", "x 1 2 3 4", "1 20 30 40 50", "0 .5 .5 0 0"]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    labels = imported(format_named("yolo"), tmp_path)
    assert boxes(labels) == {"a.jpg": [(OWL, (16, 12, 48, 36))], "c.jpeg": []}
    assert labels.problems.left_out == {
        "line that is no YOLO label": 2,
        "object of a class number without a name": 1,
        "label in pixels instead of shares of the picture": 1,
        "box without area": 1,
    }
    assert labels.problems.doubtful == {"picture without a text file, taken as one without objects": 1}


def test_voc_of_pictures_in_folders(tmp_path):
    """As CVAT writes them: the same folders below `Annotations`, below `JPEGImages` and in split files."""
    for split, folder in {"train": "one 1", "val": "two"}.items():
        root = voc(tmp_path / folder)
        for kind in ("JPEGImages", "Annotations"):
            (tmp_path / "birds" / kind).mkdir(parents=True, exist_ok=True)
            (root / kind).rename(tmp_path / "birds" / kind / folder)
        path = tmp_path / "birds" / "ImageSets" / "Main" / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{folder}/{stem}\n" for stem in ("a", "b 1", "c")))
    other = tmp_path / "birds" / "Annotations" / "two" / "c.xml"
    other.write_text(other.read_text().replace("<xmax>50<", "<xmax>55<"))
    labels = imported(format_named("voc"), tmp_path / "birds")
    assert not labels.problems.counts
    found = {p.path.parent.name: (p.split, p.things[0].box) for p in labels.pictures if p.path.stem == "c"}
    assert found == {"one 1": ("train", (30, 20, 50, 41)), "two": ("val", (30, 20, 55, 41))}


def test_voc_corners_count_from_one_unless_one_of_an_export_is_zero(tmp_path):
    """One pixel of a side is little, but it is that of every object."""
    root = voc(tmp_path)
    path = root / "Annotations" / "c.xml"
    assert boxes(imported(format_named("voc"), root))["c.jpeg"] == [(TIT, (30, 20, 50, 41))]
    other = root / "Annotations" / "b 1.xml"
    other.write_text(other.read_text().replace("<xmin>1<", "<xmin>0<"))
    labels = imported(format_named("voc"), root)
    assert boxes(labels)["c.jpeg"] == [(TIT, (31, 21, 50, 41))] and "<xmin>31<" in path.read_text()
    assert boxes(labels)["b 1.png"][0][1] == (0, 1, 64, 48)
    assert any("some corners are 0: all corners count from 0" in note for note in labels.notes)
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nowl:1,2,3::\n")  # of CVAT
    other.write_text(other.read_text().replace("<xmin>0<", "<xmin>1<"))
    assert boxes(imported(format_named("voc"), root))["c.jpeg"] == [(TIT, (31, 21, 50, 41))]


def test_voc_class_maps(tmp_path):
    voc(tmp_path)
    palette = np.full((HEIGHT, WIDTH), 255, np.uint8)
    palette[:10], palette[10:20] = 0, 2
    (tmp_path / "SegmentationClass").mkdir()
    image = PIL.Image.fromarray(palette, mode="L").convert("P")
    image.putpalette([v for k in range(256) for v in (k, 0, 255 - k)])
    image.save(tmp_path / "SegmentationClass" / "a.png")
    labels = imported(format_named("voc"), tmp_path)
    assert labels.map_classes == ["background", "great tit", "owl"]
    (picture,) = (p for p in labels.pictures if p.class_map)
    assert picture.path.name == "a.jpg" and len(picture.things) == 2
    assert (picture.class_map() == palette).all()


def test_cvat_segmentation_masks_have_colours(tmp_path):
    pictures(tmp_path / "images", "a.jpg")
    colours = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    colours[5:9], colours[20:30], colours[40:] = (10, 20, 30), (200, 0, 0), (1, 1, 1)
    (tmp_path / "SegmentationClass").mkdir()
    PIL.Image.fromarray(colours).save(tmp_path / "SegmentationClass" / "a.png")
    lines = ["# label:color_rgb", "background:0,0,0::", "owl:200,0,0::", "tit:10,20,30::"]
    (tmp_path / "labelmap.txt").write_text("\n".join(lines))
    labels = imported(format_named("masks"), tmp_path)
    found = labels.pictures[0].class_map()
    assert labels.map_classes == ["background", "owl", "tit"]
    assert [found[row, 3] for row in (0, 6, 25, 45)] == [0, 2, 1, 255]
    assert labels.problems.left_out == {NO_COLOUR: 1}
    assert labels.problems.first[NO_COLOUR] == "a.png: 1,1,1"


def test_numbers_of_maps_without_a_class_are_counted(tmp_path):
    root = masks(tmp_path / "birds")
    (first, *_) = sorted(root.rglob("*_mask.png"))
    pixels = np.asarray(PIL.Image.open(first)).copy()
    pixels[:5], pixels[5:8] = 77, 255
    PIL.Image.fromarray(pixels).save(first)
    labels = imported(format_named("masks"), root)
    for picture in labels.pictures:
        picture.class_map()
        picture.class_map()
    assert labels.problems.left_out == {NO_NUMBER: 1} and labels.problems.first[NO_NUMBER].endswith(": 77")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_texts_may_have_several_lines(tmp_path, end):
    pictures(tmp_path, "a.jpg", "c.jpeg")
    rows = ["file_name,text", f'a.jpg,"Two birds,{end}one owl"', "c.jpeg,A tit\u2028on a roof"]
    (tmp_path / "metadata.csv").write_bytes(end.join(rows).encode())
    from_csv = [p.captions[0].split() for p in imported(format_named("hf"), tmp_path).pictures]
    assert from_csv == [["Two", "birds,", "one", "owl"], ["A", "tit", "on", "a", "roof"]]
    (tmp_path / "metadata.csv").unlink()
    record = json.dumps({"file_name": "a.jpg", "text": "A tit\u2028on a roof"}, ensure_ascii=False)
    (tmp_path / "metadata.jsonl").write_bytes((record + end).encode())
    (picture,) = imported(format_named("hf"), tmp_path).pictures
    assert picture.captions == ["A tit\u2028on a roof"]


def test_labels_of_frames_that_are_missing_do_not_go_to_others_unsaid(tmp_path):
    pictures(tmp_path / "two", "a.jpg")
    rows = ["one/a.jpg,16,12,48,36,owl", "two/a.jpg,1,2,30,40,owl", "D:\\sets\\two\\a.jpg,5,5,9,9,owl"]
    (tmp_path / "boxes.csv").write_text("\n".join(["filename,xmin,ymin,xmax,ymax,class", *rows]))
    labels = imported(format_named("csv"), tmp_path)
    assert labels.problems.doubtful == {ONE_PICTURE: 2}
    assert labels.problems.first[ONE_PICTURE] == "one/a.jpg and two/a.jpg"


def test_imagefolder_csv_captions_and_names(tmp_path):
    pictures(tmp_path / "train", "a.jpg", "c.jpeg")
    rows = ["file_name,text", 'a.jpg,"Two birds, one owl"', "c.jpeg,A tit", "gone.jpg,Nothing"]
    (tmp_path / "train" / "metadata.csv").write_text("\n".join(rows))
    labels = imported(format_named("hf"), tmp_path)
    assert [p.captions for p in labels.pictures] == [["Two birds, one owl"], ["A tit"]]
    assert labels.problems.left_out == {"picture that is not there": 1}
    objects = {"bbox": [[1, 2, 3, 4]], "category": [1]}
    (tmp_path / "train" / "metadata.csv").unlink()
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "train/a.jpg", "objects": objects}))
    assert only(imported(format_named("hf"), tmp_path, classes=CLASSES)).label == OWL
    assert only(imported(format_named("hf"), tmp_path)).label == "class 1"


@pytest.mark.parametrize(
    "text",
    [
        "pictures/a.jpg,16,12,48,36,owl\nc.jpeg,,,,,\n",
        "image;label;left;top;right;bottom\na.jpg;owl;16;12;48;36\n",
        "image;label;left;top;right;bottom\na.jpg;owl;16,0;12,00;48;36,0\n",
        "image;label;left;top;right;bottom\na.jpg;owl;0,25;0,25;0,75;0,75\n",
        "image_path,class,x,y,width,height\nC:\\data\\a.jpg,owl,16,12,32,24\n",
        "filename,xmin,ymin,xmax,ymax,class,split\na.jpg,0.25,0.25,0.75,0.75,owl,test\n",
    ],
)
def test_tables_of_boxes(tmp_path, text):
    pictures(tmp_path / "pictures", "a.jpg", "c.jpeg")
    (tmp_path / "boxes.csv").write_text(text)
    labels = imported(format_named("csv"), tmp_path)
    assert boxes(labels)["a.jpg"] == [(OWL, (16, 12, 48, 36))]
    assert {p.split for p in labels.pictures} == ({"test"} if "split" in text else {""})


def test_a_comma_in_a_cell_of_a_table_with_commas_is_no_point(tmp_path):
    """`"1,024"` is a thousand: read as 1.024 it made another box."""
    pictures(tmp_path / "pictures", "a.jpg")
    rows = ['a.jpg,16,12,"1,024","1,100",owl', "a.jpg,16,12,48,36,owl"]
    (tmp_path / "boxes.csv").write_text("\n".join(["filename,xmin,ymin,xmax,ymax,class", *rows]))
    labels = imported(format_named("csv"), tmp_path)
    assert boxes(labels)["a.jpg"] == [(OWL, (16, 12, 48, 36))]
    assert labels.problems.left_out == {"row without four numbers": 1}


def test_map_of_another_size_is_left_out(tmp_path):
    root = masks(tmp_path / "birds")
    PIL.Image.fromarray(np.zeros((5, 5), np.uint8)).save(root / "train" / "a_mask.png")
    labels = imported(format_named("masks"), root)
    assert labels.problems.left_out == {"map of another size than its picture": 1}
    assert len(labels.pictures) == 2


def test_names_from_before_files_were_renamed_do_not_shift_labels(tmp_path):
    """1.jpg has become 2.jpg, 2.jpg has become 3.jpg: every label file still says the older name."""
    pictures(tmp_path, "2.jpg", "3.jpg")
    for k in (1, 2):
        shape = {"label": OWL, "points": [[k, 1], [9, 9]], "shape_type": "rectangle"}
        content = {"imagePath": f"{k}.jpg", "imageHeight": HEIGHT, "imageWidth": WIDTH, "shapes": [shape]}
        (tmp_path / f"{k + 1}.json").write_text(json.dumps(content))
    labels = imported(format_named("labelme"), tmp_path)
    assert boxes(labels) == {"2.jpg": [(OWL, (1, 1, 9, 9))], "3.jpg": [(OWL, (2, 1, 9, 9))]}
    assert labels.problems.doubtful == {OWN_NAME: 1}  # there is no 1.jpg any more


def test_corners_in_place_of_sizes_are_said_when_they_are_imported(tmp_path):
    pictures(tmp_path, "a.jpg")
    (tmp_path / "boxes.csv").write_text("image,x,y,w,h,class\na.jpg,30,20,60,40,owl\na.jpg,3,2,60,40,owl\n")
    labels = imported(format_named("csv"), tmp_path)
    assert labels.problems.doubtful == {LEAVING: 1} and len(labels.pictures[0].things) == 2
