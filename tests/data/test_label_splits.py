"""Which picture a label file means, and in which split it is, where names alone do not say."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import replace

import pytest
from files import write_image, write_json
from label_files import CLASSES, LAYOUTS, OWL, TIT, Thing, imported, scenes

from ufo.data.formats import format_named


@pytest.mark.parametrize("name", [name for name, layout in LAYOUTS.items() if layout.alike])
def test_pictures_of_two_splits_may_have_the_same_name(name, tmp_path):
    """`train/a.jpg` and `val/a.jpg`: each gets its own labels, and stays in its split."""
    (first,) = scenes(True, "a.jpg")
    first = replace(first, things=[Thing(OWL, (4, 8, 24, 24))])
    second = replace(first, things=[Thing(TIT, (10, 8, 40, 40))], split="val")
    layout = LAYOUTS[name]
    labels = imported(format_named(layout.format), layout.write(tmp_path, [first, second], CLASSES))
    found = {picture.split: [(t.label, t.box) for t in picture.things] for picture in labels.pictures}
    assert not labels.problems.left_out and found.keys() == {"train", "val"}
    for scene in (first, second):
        ((label, box),) = found[scene.split]
        assert label == scene.things[0].label and box == pytest.approx(scene.things[0].box, abs=0.01)


def test_a_folder_above_the_imported_one_is_no_split_of_pictures(tmp_path):
    """Both pictures are below a folder called `train`."""
    folder = tmp_path / "train" / "export"
    for split in ("train", "val"):
        write_image(folder / "photos" / split / "a.jpg")
    head, rows = (
        "filename,xmin,ymin,xmax,ymax,class,split\n",
        "a.jpg,1,2,9,9,owl,train\na.jpg,3,2,9,9,owl,val\n",
    )
    (folder / "labels.csv").write_text(head + rows)
    labels = imported(format_named("csv"), folder)
    assert {(p.path.parent.name, p.split) for p in labels.pictures} == {("train", "train"), ("val", "val")}
    assert not labels.problems.counts


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("quoted", [False, True])
def test_uploads_of_label_studio_lose_blanks_brackets_and_marks(form, quoted, tmp_path):
    """Its server writes `Käuz_2.jpg` for `Käuz (2).jpg`; an umlaut in two parts keeps its letter."""
    name = unicodedata.normalize(form, "Käuz (2).jpg")
    write_image(tmp_path / "photos" / name)
    stored = "Käuz_2.jpg" if form == "NFC" else "Kauz_2.jpg"
    stored = stored.replace("ä", "%C3%A4") if quoted else stored
    value = {"x": 25, "y": 50, "width": 50, "height": 25, "rotation": 0, "rectanglelabels": [OWL]}
    result = {"id": "r", "type": "rectanglelabels", "value": value}
    task = {"annotations": [{"result": [result]}], "data": {"image": f"/data/upload/1/0a1b2c3d-{stored}"}}
    write_json(tmp_path / "project.json", [task])
    labels = imported(format_named("label_studio"), tmp_path)
    assert [picture.path.name for picture in labels.pictures] == [name] and not labels.problems.counts


def test_text_files_of_label_studios_yolo_have_umlauts_as_in_a_url(tmp_path):
    write_image(tmp_path / "images" / "0a1b2c3d-Käuz_2.jpg")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "0a1b2c3d-K%C3%A4uz_2.txt").write_text("0 .5 .5 .5 .5\n")
    (tmp_path / "labels" / "0a1b2c3d-100%.txt").write_text("0 .5 .5 .5 .5\n")
    (tmp_path / "classes.txt").write_text("owl\n")
    labels = imported(format_named("yolo"), tmp_path)
    assert [thing.box for picture in labels.pictures for thing in picture.things] == [(16, 12, 48, 36)]
    assert labels.problems.counts == {"text file without its picture": 1}


def test_uploads_of_two_pictures_that_become_one_name_are_left_out(tmp_path):
    for name in ("a 1.jpg", "a (1).jpg"):
        write_image(tmp_path / "photos" / name)
    write_image(tmp_path / "photos" / "b.jpg")
    value = {"x": 25, "y": 50, "width": 50, "height": 25, "rectanglelabels": [OWL]}
    shown = [{"result": [{"id": "r", "type": "rectanglelabels", "value": value}]}]
    images = [{"image": f"/data/upload/1/0a1b2c3d-{name}"} for name in ("a_1.jpg", "b.jpg")]
    tasks = [{"annotations": shown, "data": image} for image in images]
    write_json(tmp_path / "project.json", tasks)
    labels = imported(format_named("label_studio"), tmp_path)
    assert [picture.path.name for picture in labels.pictures] == ["b.jpg"]
    assert labels.problems.left_out["name of several pictures"] == 1


@pytest.mark.parametrize(
    "above", ["C:\\data\\test\\{}", "/home/me/test/{}", "../test/{}", "https://x.org/test/{}"]
)
@pytest.mark.parametrize("format", ["csv", "via", "cvat", "imagefolder", "labelme", "voc", "coco"])
def test_a_folder_of_another_machine_is_no_split(format, above, tmp_path):
    """All of `C:\\data\\test` were pictures for tests; what is in the data set's folder still counts."""
    for name in ("a.jpg", "val/b.jpg"):
        write_image(tmp_path / "photos" / name)
    names = [
        above.format(name.replace("/", "\\") if "\\" in above else name) for name in ("a.jpg", "val/b.jpg")
    ]
    write_of_another_machine(tmp_path, format, names)
    labels = imported(format_named(format), tmp_path)
    assert {p.path.name for p in labels.pictures} == {"a.jpg", "b.jpg"} and not labels.problems.left_out
    splits = {picture.path.name: picture.split for picture in labels.pictures}
    assert splits["a.jpg"] == ""
    if format in ("csv", "via", "cvat", "imagefolder"):  # the others go by their own files' folders
        assert splits["b.jpg"] == "val"


def write_of_another_machine(folder, format, names):
    """One box in each of two pictures, called by their paths elsewhere."""
    corners = "".join(
        f"<{side}>{n}</{side}>"
        for side, n in zip(("xmin", "ymin", "xmax", "ymax"), (2, 3, 20, 30), strict=True)
    )
    if format == "csv":
        rows = "".join(f"{name},1,2,20,30,owl\n" for name in names)
        (folder / "labels.csv").write_text(f"filename,xmin,ymin,xmax,ymax,class\n{rows}")
    elif format == "via":
        region = {"shape_attributes": {"name": "rect", "x": 1, "y": 2, "width": 20, "height": 20}}
        region["region_attributes"] = {"kind": "owl"}
        files = {
            name: {"filename": name, "size": -1, "regions": [region], "file_attributes": {}} for name in names
        }
        write_json(folder / "via.json", files)
    elif format == "cvat":
        box = '<box label="owl" xtl="1" ytl="2" xbr="20" ybr="30"/>'
        images = "".join(f'<image name="{name}" width="64" height="48">{box}</image>' for name in names)
        (folder / "annotations.xml").write_text(f"<annotations>{images}</annotations>")
    elif format == "imagefolder":
        rows = [{"file_name": n, "objects": {"bbox": [[1, 2, 20, 20]], "categories": ["owl"]}} for n in names]
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif format == "coco":
        images = [{"id": k, "file_name": name, "width": 64, "height": 48} for k, name in enumerate(names)]
        boxes = [{"id": k, "image_id": k, "category_id": 1, "bbox": [1, 2, 20, 20]} for k in range(2)]
        content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "owl"}]}
        write_json(folder / "labels.json", content)
    for name, stem in zip(names, "ab", strict=True):
        if format == "labelme":
            shape = {"label": "owl", "points": [[1, 2], [20, 30]], "shape_type": "rectangle"}
            write_json(folder / f"{stem}.json", {"imagePath": name, "shapes": [shape]})
        elif format == "voc":
            thing = f"<object><name>owl</name><bndbox>{corners}</bndbox></object>"
            text = f"<annotation><folder>test</folder><filename>{name}</filename>{thing}</annotation>"
            (folder / f"{stem}.xml").write_text(text)
