"""Every format of `ufo.data.formats`: what a tool has written is what is read, and it is recognised."""

from __future__ import annotations

import json

import pytest
from label_files import (
    BOXES,
    CLASSES,
    NO_ORDER,
    OWN_SPLIT,
    POLYGON,
    TOOLS,
    WIDTH,
    boxes,
    class_map,
    imported,
    masks,
    tree_hash,
    true_boxes,
)

from ufo.data.errors import DataError
from ufo.data.formats import format_named, formats, recognised
from ufo.data.labels.reading import Source


@pytest.mark.parametrize("tool", TOOLS)
def test_boxes_and_classes_are_those_that_were_written(tool, tmp_path):
    path = TOOLS[tool](tmp_path / "birds")
    before = tree_hash(tmp_path)
    labels = imported(format_named(tool), path)
    assert boxes(labels) == true_boxes()
    assert labels.classes == (sorted(CLASSES) if tool in NO_ORDER else CLASSES)
    polygons = [t.polygons for p in labels.pictures for t in p.things if t.polygons]
    if tool in BOXES:
        assert not polygons
    else:
        # YOLO has six decimals of the picture's sides
        assert polygons == [[pytest.approx(POLYGON, abs=5e-7 * WIDTH)]]
    splits = {picture.path.name: picture.split for picture in labels.pictures}
    own = {"a.jpg": "train", "b 1.png": "train", "c.jpeg": "val"}
    assert splits == (own if tool in OWN_SPLIT else dict.fromkeys(own, ""))
    assert not labels.problems.counts and all(p.size == (48, 64) for p in labels.pictures)
    assert tree_hash(tmp_path) == before


@pytest.mark.parametrize("tool", [*TOOLS, "masks"])
def test_folder_is_recognised(tool, tmp_path):
    path = {**TOOLS, "masks": masks}[tool](tmp_path / "birds")
    found = recognised(Source(path))
    assert found[0][0].name == ("roboflow" if tool == "masks" else tool)
    assert tool in [known.name for known, _ in found]


def test_what_is_no_export_is_not_recognised(tmp_path):
    (tmp_path / "notes.txt").write_text("1 2 3 4 5")
    (tmp_path / "a.json").write_text(json.dumps({"a": 1}))
    (tmp_path / "b.csv").write_text("a,b\n1,2\n")
    (tmp_path / "c.xml").write_text("<x/>")
    (tmp_path / "d.yaml").write_text("a: 1")
    assert recognised(Source(tmp_path)) == []


@pytest.mark.parametrize("name", formats())
def test_empty_folder_is_said_in_one_sentence(name, tmp_path):
    with pytest.raises(DataError) as error:
        imported(format_named(name), tmp_path)
    assert str(tmp_path) in str(error.value)


def test_names_in_other_spellings_and_near_misses():
    assert format_named("Label-Studio").name == format_named("labelstudio").name == "label_studio"
    assert format_named("HuggingFace").name == "imagefolder" and format_named("YOLOv8").name == "yolo"
    with pytest.raises(DataError, match=r"no format 'yollo'; did you mean 'yolo'\?"):
        format_named("yollo")


def test_class_maps_of_roboflow(tmp_path):
    labels = imported(format_named("masks"), masks(tmp_path / "birds"))
    assert labels.map_classes == ["background", *CLASSES]
    assert [p.split for p in labels.pictures] == ["train", "train", "val"]
    for picture in labels.pictures:
        assert (picture.class_map() == class_map(picture.path.name)).all()
