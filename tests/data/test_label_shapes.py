"""Shapes of CVAT and Label Studio, in each tool's own notation, as pixels of the picture."""

from __future__ import annotations

import numpy as np
import pytest
from files import write_json
from label_files import (
    HEIGHT,
    OWL,
    TIT,
    WIDTH,
    coco_content,
    cvat_text,
    imported,
    pictures,
)
from label_shapes import blob, decoded, only, whole
from pycocotools import mask as coco_mask

from ufo.data.formats import format_named
from ufo.data.labels.brush import brush_mask, brush_rle
from ufo.data.labels.reading import Source
from ufo.data.labels.shapes import area

# ---------------------------------------------------------------- CVAT


def cvat(root, shapes: str):
    pictures(root, "a.jpg")
    image = f'<image id="0" name="a.jpg" width="{WIDTH}" height="{HEIGHT}">{shapes}</image>'
    (root / "annotations.xml").write_text(cvat_text(image))
    return imported(format_named("cvat"), root)


def test_cvat_mask_counts_rows_of_its_box_first_those_outside(tmp_path):
    rle = "3,6,2,6,4,6,4,6,4,6,12,1"  # of `blob`, row by row
    shape = f'<mask label="{OWL}" rle="{rle}" left="5" top="7" width="10" height="6" occluded="0"></mask>'
    thing = only(cvat(tmp_path, shape))
    assert (decoded(thing) == whole(blob(), 5, 7)).all()
    assert thing.box == (6, 7, 15, 13)


def test_cvat_ellipse_is_a_polygon_of_its_area(tmp_path):
    thing = only(cvat(tmp_path, f'<ellipse label="{OWL}" cx="30" cy="20" rx="16" ry="8" rotation="90"/>'))
    assert thing.box == pytest.approx((22, 4, 38, 36), abs=0.3)
    assert area(thing.polygons[0]) == pytest.approx(np.pi * 16 * 8, rel=0.02)


def test_cvat_turned_box_is_enclosed_and_counted(tmp_path):
    shape = f'<box label="{OWL}" xtl="20" ytl="10" xbr="40" ybr="20" rotation="90.0"></box>'
    labels = cvat(tmp_path, shape)
    assert only(labels).box == pytest.approx((25, 5, 35, 25))
    assert labels.problems.doubtful == {"turned box, of which the enclosing one is taken": 1}


def test_cvat_shapes_that_are_no_objects_are_counted(tmp_path):
    box = f'<box label="{OWL}" xtl="2" ytl="1" xbr="4" ybr="9"><attribute name="sex">f</attribute></box>'
    others = f'<polyline label="{OWL}" points="1,2;3,4"/><skeleton label="{OWL}"/><tag label="{TIT}"/>'
    empty = f'<polygon label="{OWL}" points="5,5;5,5;5,5"/><mask label="{OWL}" rle="1,2" left="0" top="0"/>'
    labels = cvat(tmp_path, box + others + empty)
    assert only(labels).box == (2, 1, 4, 9)
    assert labels.problems.left_out == {
        "polyline of CVAT": 1,
        "skeleton of CVAT": 1,
        "tag of CVAT": 1,
        "empty polygon or mask": 1,
        "mask without usable numbers": 1,
    }
    assert labels.problems.doubtful == {"attributes of an object, which are not taken": 1}


def test_cvat_export_as_coco_keeps_brush_masks(tmp_path):
    """CVAT marks every mask as crowd; its runs are not compressed."""
    root = pictures(tmp_path / "images" / "default", "a.jpg").parents[1]
    runs = coco_mask.encode(np.asfortranarray(whole(blob(), 5, 7)))
    content = coco_content([])
    content["images"] = [{"id": 1, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH}]
    flat = whole(blob(), 5, 7).ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, len(flat)]).tolist()
    record = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [6, 7, 9, 6], "iscrowd": 1}
    record |= {"segmentation": {"size": [HEIGHT, WIDTH], "counts": counts}, "attributes": {"occluded": False}}
    content["annotations"] = [record]
    write_json(root / "annotations" / "instances_default.json", content)
    thing = only(imported(format_named("cvat"), root))
    assert not thing.crowd and thing.rle["counts"] == runs["counts"].decode()


# ---------------------------------------------------------------- Label Studio


def label_studio(root, *results, data=None):
    pictures(root, "a.jpg")
    sizes = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0, "to_name": "image"}
    results = [{**sizes, "id": f"r{k}", **result} for k, result in enumerate(results)]
    annotation = {"id": 1, "was_cancelled": False, "result": results}
    cancelled = {"id": 2, "was_cancelled": True, "result": []}
    task = {"id": 1, "annotations": [cancelled, annotation], "data": data or {"image": "s3://bucket/a.jpg"}}
    write_json(root / "export.json", [task])
    return imported(format_named("label_studio"), root)


def test_label_studio_tasks_that_nobody_finished_say_nothing(tmp_path):
    """A skipped task does not say that its picture is empty; a finished one without a region does."""
    cancelled = {"was_cancelled": True, "result": []}
    given = {
        "a.jpg": {"annotations": [{"result": []}]},
        "b 1.png": {"annotations": [cancelled]},
        "c.jpeg": {"annotations": [], "predictions": [{"result": []}]},
        "d.jpg": {"annotations": []},
        "e.jpg": {"annotations": [cancelled, {"result": [{"id": "1", "type": "choices", "value": {}}]}]},
    }
    pictures(tmp_path, *given)
    write_json(tmp_path / "export.json", [{**task, "data": {"image": n}} for n, task in given.items()])
    labels = format_named("label_studio").read(source := Source(tmp_path))
    assert not source.unnamed()
    assert [picture.path.name for picture in labels.pictures] == ["a.jpg", "e.jpg"]
    assert labels.problems.left_out == {
        "cancelled annotation": 2,
        "task without an annotation": 2,
        "task with predictions only, which are not taken": 1,
        "result of the kind choices": 1,
    }


def test_label_studio_brush_is_the_opacity_of_its_bytes(tmp_path):
    mask = whole(blob(), 20, 30)
    value = {"format": "rle", "rle": brush_rle(mask), "brushlabels": [OWL]}
    labels = label_studio(tmp_path, {"type": "brushlabels", "value": value})
    assert (decoded(only(labels)) == mask).all()
    assert labels.problems.left_out == {"cancelled annotation": 1}


def test_label_studio_brush_written_by_hand():
    """Two pixels, the second one opaque: a run of four zeros, then four values one by one."""
    bits = f"{8:032b}" + f"{7:05b}" + "".join(f"{n - 1:04b}" for n in (3, 4, 8, 16))
    bits += "1" + "00" + f"{3:03b}" + f"{0:08b}"
    bits += "0" + "01" + f"{3:04b}" + "".join(f"{v:08b}" for v in (9, 8, 7, 255))
    bits += "0" * (-len(bits) % 8)
    content = [int(bits[k : k + 8], 2) for k in range(0, len(bits), 8)]
    assert brush_mask(content, (1, 2)).tolist() == [[0, 1]]
    for bad in (content[:-2], [1, 2], "text", 10**9, [0, 0, 0, 4, *content[4:]], [300]):
        with pytest.raises(ValueError, match="brush mask"):
            brush_mask(bad, (1, 2))


def test_label_studio_box_turns_about_its_corner(tmp_path):
    value = {"x": 50, "y": 25, "width": 25, "height": 25, "rotation": 90, "rectanglelabels": [OWL, TIT]}
    labels = label_studio(tmp_path, {"type": "rectanglelabels", "value": value})
    assert only(labels).box == pytest.approx((32 - 12, 12, 32, 12 + 16))
    assert labels.problems.counts == {
        "cancelled annotation": 1,
        "further label of one region": 1,
        "turned box, of which the enclosing one is taken": 1,
    }


def test_label_studio_texts_refer_to_regions_or_are_captions(tmp_path):
    shape = {"x": 0, "y": 0, "width": 50, "height": 50, "rotation": 0}
    labels = label_studio(
        tmp_path,
        {"id": "one", "type": "rectangle", "value": shape},
        {"id": "one", "type": "labels", "value": {**shape, "labels": [OWL]}},
        {"id": "one", "type": "textarea", "value": {"text": ["the left owl"]}},
        {"id": "two", "type": "textarea", "value": {"text": ["Two birds."]}},
        {"id": "six", "type": "choices", "value": {"choices": ["day"]}},
        {"id": "three", "type": "keypointlabels", "value": {"x": 1, "y": 2, "keypointlabels": [OWL]}},
    )
    assert (only(labels).label, only(labels).text) == (OWL, "the left owl")
    assert labels.pictures[0].captions == ["Two birds."]
    assert labels.problems.left_out["result of the kind choices"] == 1
    assert labels.problems.left_out["result of the kind keypointlabels"] == 1


def test_label_studio_json_min(tmp_path):
    pictures(tmp_path, "a.jpg")
    box = {"x": 25, "y": 50, "width": 50, "height": 25, "rotation": 0, "rectanglelabels": [OWL]}
    image = "/data/local-files/?d=birds%2Fa.jpg"
    task = {"image": image, "id": 1, "label": [{**box, "original_width": WIDTH}], "annotation_id": 5}
    other = {**task, "label": [{**box, "x": 20}], "annotation_id": 6}  # of a second annotator
    write_json(tmp_path / "min.json", [task, other])
    labels = imported(format_named("label_studio"), tmp_path)
    assert only(labels).box == (16, 24, 48, 36)
    assert labels.problems.left_out == {"further annotation of a task": 1}
