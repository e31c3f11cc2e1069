"""Every kind of shape of the label tools, in each tool's own notation, as pixels of the picture."""

from __future__ import annotations

import base64
import json

import numpy as np
import PIL.Image
import pytest
from files import write_image, write_json
from label_files import (
    CLASSES,
    HEIGHT,
    OWL,
    POLYGON,
    TIT,
    WIDTH,
    bitmap,
    boxes,
    coco_content,
    cvat_text,
    imported,
    masks,
    pictures,
    png,
    supervisely,
    voc,
    yolo,
)
from pycocotools import mask as coco_mask

from ufo.data.formats import format_named
from ufo.data.labels.brush import brush_mask, brush_rle
from ufo.data.labels.shapes import area


def only(labels):
    """The one object of the one picture."""
    (picture,) = labels.pictures
    (thing,) = picture.things
    return thing


def decoded(thing) -> np.ndarray:
    return coco_mask.decode(thing.rle)


def blob() -> np.ndarray:
    """A mask that is no rectangle, uint8 [6, 10]."""
    mask = np.zeros((6, 10), np.uint8)
    mask[0, 3:9], mask[1:5, 1:7], mask[5, 9] = 1, 1, 1
    return mask


def whole(mask: np.ndarray, left: int, top: int) -> np.ndarray:
    found = np.zeros((HEIGHT, WIDTH), np.uint8)
    found[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    return found


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
    task = {"image": image, "id": 1, "label": [{**box, "original_width": WIDTH}]}
    write_json(tmp_path / "min.json", [task])
    assert only(imported(format_named("label_studio"), tmp_path)).box == (16, 24, 48, 36)


# ---------------------------------------------------------------- Supervisely, LabelMe, VIA


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


# ---------------------------------------------------------------- layouts of files


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


def test_map_of_another_size_is_left_out(tmp_path):
    root = masks(tmp_path / "birds")
    PIL.Image.fromarray(np.zeros((5, 5), np.uint8)).save(root / "train" / "a_mask.png")
    labels = imported(format_named("masks"), root)
    assert labels.problems.left_out == {"map of another size than its picture": 1}
    assert len(labels.pictures) == 2
