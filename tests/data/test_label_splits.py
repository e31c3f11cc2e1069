"""Which picture a label file means, and in which split it is, where names alone do not say."""

from __future__ import annotations

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
