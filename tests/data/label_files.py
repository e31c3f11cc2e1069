"""The same few labels in the layouts of label tools: what each of them exports, written by hand here.

`TRUTH` has boxes in whole pixels x1, y1, x2, y2 and polygons as COCO writes them.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from files import write_image, write_json
from pycocotools import mask as coco_mask

from ufo.data.labels.reading import Source
from ufo.data.labels.record import Labels
from ufo.data.labels.shapes import around, mask_rle, pairs_of
from ufo.data.labels.tidy import tidy

HEIGHT, WIDTH = 48, 64
OWL, TIT = "owl", "great tit"
CLASSES = [TIT, OWL]  # not in the order of the alphabet reversed, nor in that of appearance
POLYGON = [10.0, 8.0, 40.0, 10.0, 30.0, 40.0]


@dataclass
class Thing:
    label: str
    box: tuple[float, float, float, float]
    polygon: list[float] = field(default_factory=list)


TRUTH: dict[str, list[Thing]] = {
    "a.jpg": [Thing(OWL, (4, 8, 24, 24)), Thing(TIT, (10, 8, 40, 40), POLYGON)],
    "b 1.png": [Thing(OWL, (0, 0, 64, 48))],
    "c.jpeg": [Thing(TIT, (30, 20, 50, 41))],
}


def pictures(folder: Path, *names: str) -> Path:
    """Write the pictures of `TRUTH`, or some of them."""
    for name in names or TRUTH:
        write_image(folder / name, HEIGHT, WIDTH)
    return folder


def imported(module: Any, path: Path, classes: list[str] | None = None, **options: Any) -> Labels:
    """What a format's module reads, tidied."""
    labels = module.read(Source(path, scratch=path.parent / "scratch", classes=classes, **options))
    tidy(labels, classes)
    return labels


def boxes(labels: Labels) -> dict[str, list[tuple[str, tuple[float, ...]]]]:
    """Class and box by picture, rounded to a thousandth of a pixel."""
    return {
        picture.path.name: [(t.label, tuple(round(v, 3) for v in t.box or ())) for t in picture.things]
        for picture in labels.pictures
    }


def true_boxes() -> dict[str, list[tuple[str, tuple[float, ...]]]]:
    return {
        name: [(t.label, tuple(round(float(v), 3) for v in t.box)) for t in things]
        for name, things in TRUTH.items()
    }


def tree_hash(folder: Path) -> str:
    """One number for names and contents of all files below a folder."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()


def png(mask: np.ndarray) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(mask).save(file, format="PNG")
    return file.getvalue()


# --- one function per tool: writes into a folder, returns what is imported


def yolo(root: Path) -> Path:
    for name, things in TRUTH.items():
        split = "val" if name == "c.jpeg" else "train"
        pictures(root / "images" / split, name)
        lines = []
        for thing in things:
            x1, y1, x2, y2 = thing.box
            values = [(x1 + x2) / 2 / WIDTH, (y1 + y2) / 2 / HEIGHT, (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT]
            if thing.polygon:
                values = [v / (HEIGHT if k % 2 else WIDTH) for k, v in enumerate(thing.polygon)]
            lines.append(" ".join(map(repr, [CLASSES.index(thing.label), *values])))
        path = (root / "labels" / split / name).with_suffix(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines))
    names = json.dumps(CLASSES)
    (root / "data.yaml").write_text(f"path: .\ntrain: images/train\nval: images/val\nnc: 2\nnames: {names}\n")
    return root


def voc(root: Path) -> Path:
    pictures(root / "JPEGImages")
    splits: dict[str, list[str]] = {"train": [], "val": []}
    for name, things in TRUTH.items():
        stem = Path(name).stem
        splits["val" if name == "c.jpeg" else "train"].append(stem)
        found = ""
        for thing in things:
            x1, y1, x2, y2 = thing.box
            found += (
                f"<object><name>{thing.label}</name><difficult>0</difficult><bndbox><xmin>{x1 + 1}</xmin>"
                f"<ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
            )
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
        path = root / "Annotations" / f"{stem}.xml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"<annotation><filename>{name}</filename>{size}{found}</annotation>")
    for split, stems in splits.items():
        path = root / "ImageSets" / "Main" / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{stem}\n" for stem in stems))
    return root


def labelme(root: Path) -> Path:
    pictures(root)
    for name, things in TRUTH.items():
        shapes = []
        for thing in things:
            x1, y1, x2, y2 = thing.box
            kind = "polygon" if thing.polygon else "rectangle"
            points = pairs_of(thing.polygon) if thing.polygon else [(x2, y1), (x1, y2)]
            shapes.append({"label": thing.label, "shape_type": kind, "points": points, "group_id": None})
        content = {
            "version": "5.4.1",
            "flags": {},
            "shapes": shapes,
            "imagePath": name,
            "imageData": None,
            "imageHeight": HEIGHT,
            "imageWidth": WIDTH,
        }
        write_json((root / name).with_suffix(".json"), content)
    (root / "labels.txt").write_text("__ignore__\n_background_\n" + "\n".join(CLASSES))
    return root


def cvat_text(images: str = "") -> str:
    names = "".join(f"<label><name>{name}</name></label>" for name in CLASSES)
    head = f"<version>1.1</version><meta><task><name>birds</name><labels>{names}</labels></task></meta>"
    return f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>{head}{images}</annotations>'


def cvat(root: Path) -> Path:
    pictures(root / "images")
    images = ""
    for place, (name, things) in enumerate(TRUTH.items()):
        images += f'<image id="{place}" name="{name}" width="{WIDTH}" height="{HEIGHT}">'
        for thing in things:
            x1, y1, x2, y2 = thing.box
            head = f'label="{thing.label}" source="manual" occluded="0" z_order="0"'
            if thing.polygon:
                points = ";".join(f"{x},{y}" for x, y in pairs_of(thing.polygon))
                images += f'<polygon {head} points="{points}"></polygon>'
            else:
                images += f'<box {head} xtl="{x1}" ytl="{y1}" xbr="{x2}" ybr="{y2}"></box>'
        images += "</image>"
    (root / "annotations.xml").write_text(cvat_text(images))
    return root


def coco_content(names: list[str]) -> dict[str, Any]:
    content: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": 10 * k + 3, "name": name} for k, name in enumerate(CLASSES)]
    for place, name in enumerate(names, start=5):
        content["images"].append({"id": place, "file_name": name, "height": HEIGHT, "width": WIDTH})
        for thing in TRUTH[name]:
            x1, y1, x2, y2 = thing.box
            record = {
                "id": len(content["annotations"]),
                "image_id": place,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
            }
            record |= {"category_id": 10 * CLASSES.index(thing.label) + 3, "iscrowd": 0, "area": 1}
            record |= {"segmentation": [thing.polygon] if thing.polygon else []}
            content["annotations"].append(record)
    return content


def coco(root: Path) -> Path:
    pictures(root / "images" / "default")
    write_json(root / "annotations" / "instances_default.json", coco_content(list(TRUTH)))
    return root


def roboflow(root: Path) -> Path:
    """COCO per split, with Roboflow's first category, which stands above the others."""
    for split, names in {"train": ["a.jpg", "b 1.png"], "valid": ["c.jpeg"]}.items():
        pictures(root / split, *names)
        content = coco_content(names)
        above = {"id": 0, "name": "birds", "supercategory": "none"}
        for entry in content["categories"]:
            entry["supercategory"] = "birds"
        content["categories"].insert(0, above)
        write_json(root / split / "_annotations.coco.json", content)
    (root / "README.roboflow.txt").write_text("birds - v1\n")
    return root


def label_studio(root: Path) -> Path:
    pictures(root)
    tasks = []
    for place, (name, things) in enumerate(TRUTH.items()):
        results = []
        for thing in things:
            x1, y1, x2, y2 = thing.box
            value: dict[str, Any] = {"x": x1 / WIDTH * 100, "y": y1 / HEIGHT * 100, "rotation": 0}
            value |= {"width": (x2 - x1) / WIDTH * 100, "height": (y2 - y1) / HEIGHT * 100}
            kind = "rectanglelabels"
            if thing.polygon:
                kind = "polygonlabels"
                value = {
                    "points": [[x / WIDTH * 100, y / HEIGHT * 100] for x, y in pairs_of(thing.polygon)],
                    "closed": True,
                }
            sizes = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
            names = {"id": f"r{len(results)}", "from_name": "label", "to_name": "image", "type": kind}
            results.append({**sizes, **names, "value": {**value, kind: [thing.label]}})
        annotation = {"id": place, "was_cancelled": False, "ground_truth": False, "result": results}
        image = f"/data/upload/1/0a1b2c3d-{name.replace(' ', '%20')}"
        tasks.append({"id": place, "annotations": [annotation], "predictions": [], "data": {"image": image}})
    write_json(root / "project-1-at-2026-01-01.json", tasks)
    return root


def supervisely(root: Path) -> Path:
    classes = [{"title": name, "shape": "any", "color": "#112233"} for name in CLASSES]
    write_json(root / "meta.json", {"classes": classes, "tags": [], "projectType": "images"})
    for name, things in TRUTH.items():
        dataset = root / ("val" if name == "c.jpeg" else "train")
        pictures(dataset / "img", name)
        objects = []
        for thing in things:
            x1, y1, x2, y2 = thing.box
            # the last pixel of a rectangle belongs to it
            points = pairs_of(thing.polygon) if thing.polygon else [(x1, y1), (x2 - 1, y2 - 1)]
            kind = "polygon" if thing.polygon else "rectangle"
            shape = {"points": {"exterior": points, "interior": []}, "geometryType": kind}
            objects.append({"id": len(objects), "classTitle": thing.label, "description": "", **shape})
        content = {"size": {"height": HEIGHT, "width": WIDTH}, "tags": [], "objects": objects}
        write_json(dataset / "ann" / f"{name}.json", content)
    return root


def bitmap(mask: np.ndarray, left: int, top: int) -> dict[str, Any]:
    """A figure of Supervisely: a packed PNG at its place."""
    data = base64.b64encode(zlib.compress(png(mask))).decode()
    return {"classTitle": OWL, "geometryType": "bitmap", "bitmap": {"origin": [left, top], "data": data}}


def via(root: Path) -> Path:
    pictures(root)
    files = {}
    for name, things in TRUTH.items():
        regions = []
        for thing in things:
            x1, y1, x2, y2 = thing.box
            shape: dict[str, Any] = {"name": "rect", "x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1}
            if thing.polygon:
                shape = {
                    "name": "polygon",
                    "all_points_x": thing.polygon[::2],
                    "all_points_y": thing.polygon[1::2],
                }
            regions.append({"shape_attributes": shape, "region_attributes": {"bird": thing.label}})
        files[f"{name}123"] = {"filename": name, "size": 123, "regions": regions, "file_attributes": {}}
    options = {"bird": {"type": "dropdown", "options": {name: "" for name in CLASSES}}}
    project = {
        "_via_settings": {},
        "_via_img_metadata": files,
        "_via_attributes": {"region": options, "file": {}},
    }
    write_json(root / "via_project.json", project)
    return root


def imagefolder(root: Path) -> Path:
    head = "dataset_info:\n  features:\n  - name: category\n    dtype:\n      class_label:\n        names:\n"
    head += "\n".join(f"          '{k}': {name}" for k, name in enumerate(CLASSES))
    root.mkdir(parents=True, exist_ok=True)
    (root / "README.md").write_text(f"---\n{head}\n---\n# birds\n")
    for split, chosen in {"train": ["a.jpg", "b 1.png"], "validation": ["c.jpeg"]}.items():
        pictures(root / split, *chosen)
        lines = []
        for name in chosen:
            found = [[t.box[0], t.box[1], t.box[2] - t.box[0], t.box[3] - t.box[1]] for t in TRUTH[name]]
            labels = [CLASSES.index(thing.label) for thing in TRUTH[name]]
            objects = {"bbox": found, "categories": labels}
            lines.append(json.dumps({"file_name": name, "objects": objects}))
        (root / split / "metadata.jsonl").write_text("\n".join(lines))
    return root


def table(root: Path) -> Path:
    pictures(root / "pictures")
    lines = ["filename,width,height,class,xmin,ymin,xmax,ymax"]
    for name, things in TRUTH.items():
        lines += [f"{name},{WIDTH},{HEIGHT},{t.label},{','.join(map(str, t.box))}" for t in things]
    (root / "labels.csv").write_text("\n".join(lines))
    (root / "classes.csv").write_text("\n".join(f"{name},{k}" for k, name in enumerate(CLASSES)))
    return root


def masks(root: Path) -> Path:
    """Roboflow's semantic masks: in `train`, owls are 2 in their boxes and tits 1."""
    for split, names in {"train": ["a.jpg", "b 1.png"], "valid": ["c.jpeg"]}.items():
        pictures(root / split, *names)
        (root / split / "_classes.csv").write_text(
            "Pixel Value, Class\n0, background\n1, great tit\n2, owl\n"
        )
        for name in names:
            PIL.Image.fromarray(class_map(name)).save(root / split / f"{Path(name).stem}_mask.png")
    return root


def class_map(name: str) -> np.ndarray:
    found = np.zeros((HEIGHT, WIDTH), np.uint8)
    for thing in TRUTH[name]:
        x1, y1, x2, y2 = (int(v) for v in thing.box)
        found[y1:y2, x1:x2] = CLASSES.index(thing.label) + 1
    return found


TOOLS: dict[str, Callable[[Path], Path]] = {
    "yolo": yolo,
    "voc": voc,
    "labelme": labelme,
    "cvat": cvat,
    "coco": coco,
    "roboflow": roboflow,
    "label_studio": label_studio,
    "supervisely": supervisely,
    "via": via,
    "imagefolder": imagefolder,
    "csv": table,
}
"""By format: writes an export; all but `BOXES` keep the polygon."""
BOXES = ("voc", "imagefolder", "csv")
OWN_SPLIT = ("yolo", "voc", "roboflow", "supervisely", "imagefolder")
NO_ORDER = ("voc", "label_studio")
"""Formats that do not list their classes: they come in the order of the alphabet."""


def enclosing(polygon: list[float]) -> tuple[float, ...]:
    return around(pairs_of(polygon))


def predictions(folder: Path) -> tuple[Path, list[dict]]:
    """Boxes and masks in two pictures, as `ufo predict --json` writes them."""
    write_image(folder / "pictures" / "sub" / "0001.jpg")
    write_image(folder / "pictures" / "x y.png", 60, 40)
    ys, xs = np.mgrid[:48, :64]
    disc = ((xs - 30) / 14) ** 2 + ((ys - 22) / 9) ** 2 < 1
    rle = mask_rle(disc)
    x, y, w, h = coco_mask.toBbox(rle).tolist()
    head = {"image_id": 1, "file_name": "0001.jpg", "category_id": 1}
    records = [
        {**head, "category": "owl", "bbox": [3.5, 4.25, 20, 30.5], "score": 0.9},
        {**head, "category": "great tit", "bbox": [x, y, w, h], "segmentation": rle, "score": 0.7},
        {**head, "category": "owl", "bbox": [1, 1, 9, 9], "score": 0.1},
        {"image_id": "x y", "category": "owl", "bbox": [0, 0, 40, 60], "score": 0.5},
        {"image_id": "gone", "category": "owl", "bbox": [0, 0, 40, 60], "score": 0.5},
    ]
    return write_json(folder / "found.json", records), records
