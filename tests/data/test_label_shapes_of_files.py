"""Shapes of Supervisely, LabelMe and VIA, in each tool's own notation, as pixels of the picture."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from files import write_image, write_json
from label_files import (
    HEIGHT,
    OWL,
    POLYGON,
    TIT,
    WIDTH,
    bitmap,
    imported,
    pictures,
    png,
    supervisely,
)
from label_shapes import blob, decoded, only, whole

from ufo.data.formats import format_named
from ufo.data.labels.shapes import area


def test_supervisely_bitmap_and_holes(tmp_path):
    supervisely(tmp_path)
    outer, inner = [[10, 10], [30, 10], [30, 30], [10, 30]], [[15, 15], [25, 15], [25, 25], [15, 25]]
    ring = {"exterior": outer, "interior": [inner]}
    objects = [
        bitmap(blob().astype(bool), 5, 7),
        {"classTitle": TIT, "geometryType": "polygon", "points": ring},
        {"classTitle": TIT, "geometryType": "graph", "nodes": {}},
    ]
    write_json(tmp_path / "val" / "ann" / "c.jpeg.json", {"tags": [{"name": "train"}], "objects": objects})
    labels = imported(format_named("supervisely"), tmp_path)
    first, second = next(p for p in labels.pictures if p.path.name == "c.jpeg").things
    assert (decoded(first) == whole(blob(), 5, 7)).all()
    mask = decoded(second)
    assert mask.sum() == 400 - 100 and mask[20, 20] == 0 and mask[12, 12] == 1
    assert labels.problems.left_out == {"figure of the kind graph": 1}


def test_supervisely_bitmap_with_transparency(tmp_path):
    """The object is what is not transparent, whatever its colour."""
    supervisely(tmp_path)
    pixels = np.zeros((6, 10, 4), np.uint8)
    pixels[..., 3] = blob() * 255
    write_json(tmp_path / "val" / "ann" / "c.jpeg.json", {"tags": [], "objects": [bitmap(pixels, 50, 40)]})
    labels = imported(format_named("supervisely"), tmp_path)
    (thing,) = next(p for p in labels.pictures if p.path.name == "c.jpeg").things
    assert (decoded(thing) == whole(blob(), 50, 40)).all()


def labelme(root, *shapes, image: str | None = "a.jpg", **changes):
    if image:
        pictures(root, image)
    shapes = [{"label": OWL, "group_id": None, "flags": {}, **shape} for shape in shapes]
    content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": image or "gone.jpg"}
    content |= {"imageData": None, "imageHeight": HEIGHT, "imageWidth": WIDTH, **changes}
    write_json(root / "a.json", content)
    return imported(format_named("labelme"), root)


def test_labelme_circle_mask_and_parts_of_one_object(tmp_path):
    points = [[POLYGON[k], POLYGON[k + 1]] for k in (0, 2, 4)]
    packed = base64.b64encode(png(blob() * 255)).decode()
    labels = labelme(
        tmp_path,
        {"shape_type": "circle", "points": [[30, 20], [30, 32]]},
        {"shape_type": "mask", "points": [[5, 7], [14, 12]], "mask": packed},
        {"shape_type": "polygon", "points": points, "group_id": 4, "description": "the far owl"},
        {"shape_type": "polygon", "points": [[50, 40], [60, 40], [60, 46]], "group_id": 4},
        {"shape_type": "point", "points": [[50, 40]]},
        {"shape_type": "polygon", "points": [[50, 40], [60, 40], [55, 40]]},
    )
    circle, mask, parts = labels.pictures[0].things
    assert circle.box == pytest.approx((18, 8, 42, 32), abs=0.3)
    assert area(circle.polygons[0]) == pytest.approx(np.pi * 144, rel=0.02)
    assert (decoded(mask) == whole(blob(), 5, 7)).all()
    assert len(parts.polygons) == 2 and parts.box == (10, 8, 60, 46) and parts.text == "the far owl"
    assert labels.problems.left_out == {"shape of the kind point": 1, "empty polygon or mask": 1}


def test_labelme_picture_inside_of_the_json(tmp_path):
    path = write_image(tmp_path / "elsewhere" / "x.png", HEIGHT, WIDTH)
    inside = base64.b64encode(path.read_bytes()).decode()
    root = tmp_path / "birds"
    shape = {"shape_type": "rectangle", "points": [[1, 2], [9, 8]]}
    labels = labelme(root, shape, image=None, imageData=inside)
    assert labels.pictures[0].path == tmp_path / "scratch" / "images" / "a.png"
    assert labels.pictures[0].path.read_bytes() == path.read_bytes()
    assert sum(labels.problems.doubtful.values()) == 1


def test_via_csv_circle_ellipse_and_checkbox(tmp_path):
    pictures(tmp_path, "a.jpg")
    shapes = [
        {"name": "circle", "cx": 30, "cy": 20, "r": 10},
        {"name": "ellipse", "cx": 30, "cy": 20, "rx": 16, "ry": 8, "theta": np.pi / 2},
        {"name": "point", "cx": 3, "cy": 4},
        {"name": "rect", "x": 60, "y": 40, "width": 0, "height": 3},
    ]
    kinds = [{OWL: True, TIT: False}, {TIT: True}, {OWL: True}, {OWL: True}]
    head = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes"
    rows = [f"#{head},region_attributes"]
    for place, (shape, kind) in enumerate(zip(shapes, kinds, strict=True)):
        cells = [json.dumps(cell).replace('"', '""') for cell in (shape, {"kind": kind, "sure": "yes"})]
        rows.append(f'a.jpg,1,"{{""caption"":""Two owls.""}}",4,{place},"{cells[0]}","{cells[1]}"')
    (tmp_path / "via_export.csv").write_text("\n".join(rows))
    labels = imported(format_named("via"), tmp_path)
    circle, ellipse = labels.pictures[0].things
    assert (circle.label, ellipse.label) == (OWL, TIT)
    assert circle.box == pytest.approx((20, 10, 40, 30), abs=0.3)
    assert ellipse.box == pytest.approx((22, 4, 38, 36), abs=0.3)
    assert labels.pictures[0].captions == ["Two owls."]
    assert labels.problems.left_out == {"region of the kind point": 1, "box without area": 1}


def test_via_takes_the_attribute_that_is_called_after_a_class(tmp_path):
    pictures(tmp_path, "a.jpg")
    shape = {"name": "rect", "x": 1, "y": 2, "width": 5, "height": 5}
    region = {"shape_attributes": shape, "region_attributes": {"sure": "yes", "Class": OWL}}
    write_json(tmp_path / "via.json", {"a.jpg1": {"filename": "a.jpg", "size": 1, "regions": {"0": region}}})
    assert only(imported(format_named("via"), tmp_path)).label == OWL
