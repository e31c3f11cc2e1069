"""Tools that write a label file for each picture: YOLO, Pascal VOC, LabelMe, Supervisely.

Every function writes into a folder and returns it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from label_layouts.scenes import Scene, Thing, by_split, dump, write_text


def yolo(root: Path, scenes: Sequence[Scene], classes: Sequence[str]) -> Path:
    """`images/SPLIT`, `labels/SPLIT` and a yaml; without splits a `classes.txt`."""
    for scene in scenes:
        scene.picture(root / "images" / scene.split)
        write_text(root / "labels" / scene.split / f"{scene.stem}.txt", yolo_text(scene, classes))
    splits = [split for split in by_split(scenes) if split]
    if splits:
        paths = "".join(f"{split}: images/{split}\n" for split in splits)
        names = json.dumps(list(classes), ensure_ascii=False)
        write_text(root / "data.yaml", f"path: .\n{paths}nc: {len(classes)}\nnames: {names}\n")
    else:
        write_text(root / "classes.txt", "\n".join(classes) + "\n")
    return root


def yolo_text(scene: Scene, classes: Sequence[str]) -> str:
    """Six decimals of shares of the picture: the middle and size of a box, or the points of an outline."""
    height, width = scene.size
    lines = ""
    for thing in scene.things:
        x, y, w, h = thing.place
        values = thing.polygon or [x + w / 2, y + h / 2, w, h]
        shares = [value / (height if k % 2 else width) for k, value in enumerate(values)]
        lines += " ".join([str(classes.index(thing.label)), *(f"{share:.6f}" for share in shares)]) + "\n"
    return lines


def roboflow_yolo(root: Path, scenes: Sequence[Scene], classes: Sequence[str]) -> Path:
    """Roboflow's YOLO: `images` and `labels` in `train` and `valid`; the yaml's paths lead out of it."""
    for scene in scenes:
        folder = root / ROBOFLOW[scene.split]
        scene.picture(folder / "images")
        write_text(folder / "labels" / f"{scene.stem}.txt", yolo_text(scene, classes))
    names = json.dumps(list(classes), ensure_ascii=False)
    paths = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n"
    about = "roboflow:\n  workspace: ours\n  project: photos\n  version: 1\n"
    write_text(root / "data.yaml", f"{paths}\nnc: {len(classes)}\nnames: {names}\n\n{about}")
    return root


def voc(root: Path, scenes: Sequence[Scene], classes: Sequence[str]) -> Path:
    """`JPEGImages`, `Annotations`, and a file of names in `ImageSets/Main` for each split."""
    for scene in scenes:
        scene.picture(root / "JPEGImages")
        write_text(root / "Annotations" / f"{scene.stem}.xml", voc_text(scene))
    for split, part in by_split(scenes).items():
        if split:
            names = "".join(f"{scene.stem}\n" for scene in part)
            write_text(root / "ImageSets" / "Main" / f"{split}.txt", names)
    return root


def cvat_voc(root: Path, scenes: Sequence[Scene], classes: Sequence[str]) -> Path:
    """CVAT's Pascal VOC: the same folders, and a `labelmap.txt`; the corners count from 0."""
    voc(root, scenes, classes)
    for scene in scenes:
        write_text(root / "Annotations" / f"{scene.stem}.xml", voc_text(scene, first=0, digits=2))
    head = "# label:color_rgb:parts:actions\nbackground:0,0,0::\n"
    colours = "".join(f"{name}:{k},10,20::\n" for k, name in enumerate(classes, start=1))
    write_text(root / "labelmap.txt", head + colours)
    return root


def roboflow_voc(root: Path, scenes: Sequence[Scene], classes: Sequence[str]) -> Path:
    """Roboflow's VOC: the xml files among the pictures of `train` and `valid`."""
    for scene in scenes:
        folder = root / ROBOFLOW[scene.split]
        scene.picture(folder)
        write_text(folder / f"{scene.stem}.xml", voc_text(scene))
    write_text(root / "README.roboflow.txt", "photos - v1\n")
    return root


def voc_text(scene: Scene, first: int = 1, digits: int | None = None) -> str:
    """Whole pixels, counted from 1; the last one belongs to the object. Or with some digits, or from 0."""
    height, width = scene.size
    found = ""
    for thing in scene.things:
        x1, y1, x2, y2 = (round(v, digits) for v in thing.box)
        corners = f"<xmin>{x1 + first}</xmin><ymin>{y1 + first}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        found += (
            f"<object><name>{escape(thing.label)}</name><pose>Unspecified</pose><truncated>0</truncated>"
            f"<difficult>0</difficult><bndbox>{corners}</bndbox></object>"
        )
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation><filename>{escape(scene.name)}</filename>{size}{found}</annotation>"


def labelme(root: Path, scenes: Sequence[Scene], classes: Sequence[str]) -> Path:
    """A json beside each picture, in a folder for each split; the order of the classes in `labels.txt`."""
    for scene in scenes:
        scene.picture(root / scene.split)
        height, width = scene.size
        shapes = []
        for thing in scene.things:
            x1, y1, x2, y2 = thing.box
            kind = "polygon" if thing.polygon else "rectangle"
            points = thing.points or [[x2, y1], [x1, y2]]
            head = {"label": thing.label, "group_id": None, "description": "", "flags": {}}
            shapes.append({**head, "shape_type": kind, "points": points})
        content = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": scene.name}
        content |= {"imageData": None, "imageHeight": height, "imageWidth": width}
        dump(root / scene.split / f"{scene.stem}.json", content)
    write_text(root / "labels.txt", "__ignore__\n_background_\n" + "\n".join(classes))
    return root


def supervisely(root: Path, scenes: Sequence[Scene], classes: Sequence[str]) -> Path:
    """A data set for each split, with `img` and `ann`; whole pixels."""
    shapes = [{"title": name, "shape": "any", "color": "#112233"} for name in classes]
    dump(root / "meta.json", {"classes": shapes, "tags": [], "projectType": "images"})
    for scene in scenes:
        dataset = root / (scene.split or "ds0")
        scene.picture(dataset / "img")
        height, width = scene.size
        objects = [{"id": k, **_figure(thing)} for k, thing in enumerate(scene.things)]
        content = {"description": "", "tags": [], "size": {"height": height, "width": width}}
        dump(dataset / "ann" / f"{scene.name}.json", {**content, "objects": objects})
    return root


def _figure(thing: Thing) -> dict[str, object]:
    """A polygon, or a rectangle, whose last pixel belongs to it."""
    x1, y1, x2, y2 = map(round, thing.box)
    kind = "polygon" if thing.polygon else "rectangle"
    points = [[round(x), round(y)] for x, y in thing.points] or [[x1, y1], [x2 - 1, y2 - 1]]
    head = {"classTitle": thing.label, "description": "", "tags": [], "geometryType": kind}
    return {**head, "points": {"exterior": points, "interior": []}}


ROBOFLOW = {"train": "train", "val": "valid"}
"""What Roboflow calls the splits."""
