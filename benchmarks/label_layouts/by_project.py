"""Tools that write one label file for many pictures: CVAT, COCO, Label Studio, VIA, Hugging Face, tables.

Every function writes into a folder and returns it.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from label_layouts.by_picture import ROBOFLOW
from label_layouts.scenes import Scene, Thing, by_split, dump, write_text


def cvat(root: Path, scenes: Sequence[Scene], classes: Sequence[str]) -> Path:
    """CVAT for images 1.1: of a task, or with a subset for each split, of a project."""
    images = ""
    for place, scene in enumerate(scenes):
        scene.picture(root / "images" / scene.split)
        height, width = scene.size
        subset = f' subset="{scene.split}" task_id="1"' if scene.split else ""
        head = f'id="{place}" name={quoteattr(scene.name)}{subset} width="{width}" height="{height}"'
        images += f"<image {head}>{''.join(map(_cvat_shape, scene.things))}</image>"
    write_text(root / "annotations.xml", cvat_text(classes, images))
    return root


def cvat_text(classes: Sequence[str], images: str = "") -> str:
    """The whole xml file around some `<image>` elements."""
    names = "".join(f"<label><name>{escape(name)}</name></label>" for name in classes)
    head = f"<version>1.1</version><meta><task><name>birds</name><labels>{names}</labels></task></meta>"
    return f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>{head}{images}</annotations>'


def _cvat_shape(thing: Thing) -> str:
    """Hundredths of a pixel."""
    head = f'label={quoteattr(thing.label)} source="manual" occluded="0" z_order="0"'
    if thing.polygon:
        points = ";".join(f"{x:.2f},{y:.2f}" for x, y in thing.points)
        return f'<polygon {head} points="{points}"></polygon>'
    sides = zip(("xtl", "ytl", "xbr", "ybr"), thing.box, strict=True)
    numbers = " ".join(f'{side}="{value:.2f}"' for side, value in sides)
    return f"<box {head} {numbers}></box>"


def coco_content(scenes: Sequence[Scene], classes: Sequence[str]) -> dict[str, Any]:
    """One COCO file: boxes and outlines in hundredths of a pixel, ids with gaps."""
    content: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": 10 * k + 3, "name": name} for k, name in enumerate(classes)]
    for place, scene in enumerate(scenes, start=5):
        height, width = scene.size
        content["images"].append({"id": place, "file_name": scene.name, "height": height, "width": width})
        for thing in scene.things:
            box = [round(v, 2) for v in thing.place]
            head = {"id": len(content["annotations"]), "image_id": place, "iscrowd": 0}
            head |= {"category_id": 10 * classes.index(thing.label) + 3, "area": round(box[2] * box[3], 2)}
            outline = [[round(v, 2) for v in thing.polygon]] if thing.polygon else []
            content["annotations"].append({**head, "bbox": box, "segmentation": outline})
    return content


def coco(root: Path, scenes: Sequence[Scene], classes: Sequence[str]) -> Path:
    """CVAT's COCO 1.0: `annotations/instances_SUBSET.json` beside `images/SUBSET`."""
    for split, part in by_split(scenes).items():
        subset = split or "default"
        for scene in part:
            scene.picture(root / "images" / subset)
        dump(root / "annotations" / f"instances_{subset}.json", coco_content(part, classes))
    return root


def _of_roboflow(root: Path, scenes: Sequence[Scene]) -> Iterator[tuple[Path, list[Scene]]]:
    """The folder of each split, with its pictures written, and what is in it."""
    for split, part in by_split(scenes).items():
        for scene in part:
            scene.picture(root / ROBOFLOW[split])
        yield root / ROBOFLOW[split], part


def roboflow(root: Path, scenes: Sequence[Scene], classes: Sequence[str]) -> Path:
    """Roboflow's COCO: a json per split, with a first category that stands above the others."""
    for folder, part in _of_roboflow(root, scenes):
        content = coco_content(part, classes)
        for entry in content["categories"]:
            entry["supercategory"] = "birds"
        content["categories"].insert(0, {"id": 0, "name": "birds", "supercategory": "none"})
        dump(folder / "_annotations.coco.json", content)
    write_text(root / "README.roboflow.txt", "birds - v1\n")
    return root


def label_studio(root: Path, scenes: Sequence[Scene], classes: Sequence[str]) -> Path:
    """A project for each split: its pictures were uploaded, which takes blanks and brackets out of names."""
    for split, part in by_split(scenes).items():
        tasks = []
        for place, scene in enumerate(part):
            scene.picture(root / split)
            results = [_result(scene, k, thing) for k, thing in enumerate(scene.things)]
            annotation = {"id": place, "was_cancelled": False, "ground_truth": False, "result": results}
            name = re.sub(r"[^-\w.]", "", scene.name.replace(" ", "_"))
            data = {"image": f"/data/upload/1/0a1b2c3d-{name}"}
            tasks.append({"id": place, "annotations": [annotation], "predictions": [], "data": data})
        dump(root / split / "project-1-at-2026-01-01.json", tasks)
    return root


def _result(scene: Scene, place: int, thing: Thing) -> dict[str, Any]:
    """Percent of the picture."""
    height, width = scene.size
    kind = "polygonlabels" if thing.polygon else "rectanglelabels"
    if thing.polygon:
        points = [[x / width * 100, y / height * 100] for x, y in thing.points]
        value: dict[str, Any] = {"points": points, "closed": True}
    else:
        x, y, w, h = thing.place
        value = {"x": x / width * 100, "y": y / height * 100, "rotation": 0}
        value |= {"width": w / width * 100, "height": h / height * 100}
    head = {"id": f"r{place}", "from_name": "label", "to_name": "image", "type": kind}
    head |= {"original_width": width, "original_height": height, "image_rotation": 0}
    return {**head, "value": {**value, kind: [thing.label]}}


def via(root: Path, scenes: Sequence[Scene], classes: Sequence[str]) -> Path:
    """A project of VIA 2 for each split, beside its pictures; whole pixels."""
    options = {"bird": {"type": "dropdown", "options": {name: "" for name in classes}}}
    for split, part in by_split(scenes).items():
        files = {}
        for scene in part:
            size = scene.picture(root / split).stat().st_size
            shapes = [(_region(thing), {"bird": thing.label}) for thing in scene.things]
            regions = [{"shape_attributes": shape, "region_attributes": told} for shape, told in shapes]
            entry = {"filename": scene.name, "size": size, "regions": regions, "file_attributes": {}}
            files[f"{scene.name}{size}"] = entry
        project = {"_via_settings": {}, "_via_img_metadata": files}
        dump(
            root / split / "via_project.json", {**project, "_via_attributes": {"region": options, "file": {}}}
        )
    return root


def via_csv(root: Path, scenes: Sequence[Scene], classes: Sequence[str]) -> Path:
    """VIA's csv for each split: a row per region, with json in its cells."""
    head = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,"
    for split, part in by_split(scenes).items():
        rows = [(head + "region_attributes").split(",")]
        for scene in part:
            size = scene.picture(root / split).stat().st_size
            for k, thing in enumerate(scene.things):
                cells = [json.dumps(_region(thing)), json.dumps({"bird": thing.label})]
                rows.append([scene.name, str(size), "{}", str(len(scene.things)), str(k), *cells])
            if not scene.things:
                rows.append([scene.name, str(size), "{}", "0", "0", "{}", "{}"])
        write_text(root / split / "via_export_csv.csv", _table(rows))
    return root


def _region(thing: Thing) -> dict[str, Any]:
    if thing.polygon:
        xs, ys = ([round(v) for v in thing.polygon[k::2]] for k in (0, 1))
        return {"name": "polygon", "all_points_x": xs, "all_points_y": ys}
    return {"name": "rect", **dict(zip(("x", "y", "width", "height"), map(round, thing.place), strict=True))}


def imagefolder(root: Path, scenes: Sequence[Scene], classes: Sequence[str]) -> Path:
    """`metadata.jsonl` among the pictures of each split; the names of the numbers in the README's head."""
    head = "dataset_info:\n  features:\n  - name: category\n    dtype:\n      class_label:\n        names:\n"
    head += "\n".join(f"          '{k}': {name}" for k, name in enumerate(classes))
    write_text(root / "README.md", f"---\n{head}\n---\n# photos\n")
    for split, part in by_split(scenes).items():
        folder = root / {"train": "train", "val": "validation"}.get(split, "")
        lines = []
        for scene in part:
            scene.picture(folder)
            numbers = [classes.index(thing.label) for thing in scene.things]
            objects = {"bbox": [list(thing.place) for thing in scene.things], "categories": numbers}
            lines.append(json.dumps({"file_name": scene.name, "objects": objects}) + "\n")
        write_text(folder / "metadata.jsonl", "".join(lines))
    return root


COLUMNS = ["filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"]


def table(root: Path, scenes: Sequence[Scene], classes: Sequence[str]) -> Path:
    """One csv: a row per box in whole pixels, or for an empty picture, and a column for the split, if any."""
    divided = any(scene.split for scene in scenes)
    rows = [[*COLUMNS, *(["split"] if divided else [])]]
    for scene in scenes:
        scene.picture(root / "pictures")
        height, width = scene.size
        empty = [[scene.name, str(width), str(height), *[""] * 5]]
        rows += [[*row, *([scene.split] if divided else [])] for row in _rows(scene) or empty]
    write_text(root / "labels.csv", _table(rows))
    write_text(root / "classes.csv", _table([[name, str(k)] for k, name in enumerate(classes)]))
    return root


def roboflow_csv(root: Path, scenes: Sequence[Scene], classes: Sequence[str]) -> Path:
    """Roboflow's csv among the pictures of each split, which does not name those without objects."""
    for folder, part in _of_roboflow(root, scenes):
        rows = [COLUMNS, *(row for scene in part for row in _rows(scene))]
        write_text(folder / "_annotations.csv", _table(rows))
    return root


def _rows(scene: Scene) -> list[list[str]]:
    height, width = scene.size
    head = [scene.name, str(width), str(height)]
    return [[*head, thing.label, *(str(round(v)) for v in thing.box)] for thing in scene.things]


def _table(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
