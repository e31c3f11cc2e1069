"""Plain CSV: a row per box, under a head that names the columns or, as RetinaNet's, without one.

RetinaNet's columns are path,x1,y1,x2,y2,class. Corners (xmin, x1, left, ...), or x, y, width, height; in
pixels, or in shares of the picture if none of a file is above 2. `classes.csv` (`name,number`) gives the
order. Files called after a split, or a column `split`, are one.
"""

from __future__ import annotations

import re
from pathlib import Path

from ufo.data.errors import DataError
from ufo.data.labels.reading import Source, mark_of, peek, rows_of
from ufo.data.labels.record import Labels, Picture, Thing, split_of
from ufo.data.labels.shapes import corners, number
from ufo.data.problems import DOUBTFUL

ABOUT = "CSV with a row per box: with a head, or RetinaNet's path,x1,y1,x2,y2,class"
ALIASES = ("retinanet", "keras_retinanet", "tensorflow_csv", "tf_csv", "table")
ORDER = 60
COLUMNS = {
    "file": "filename file_name file image image_name image_path image_id path img img_path imagename",
    "x1": "xmin x1 x_min left xtl bbox_xmin bbox_x1 x0 xmin_px",
    "y1": "ymin y1 y_min top ytl bbox_ymin bbox_y1 y0 ymin_px",
    "x2": "xmax x2 x_max right xbr bbox_xmax bbox_x2 xmax_px",
    "y2": "ymax y2 y_max bottom ybr bbox_ymax bbox_y2 ymax_px",
    "x": "x bbox_x box_x x_left",
    "y": "y bbox_y box_y y_top",
    "w": "w bbox_width bbox_w box_width box_w width",
    "h": "h bbox_height bbox_h box_height box_h height",
    "class": "class label name class_name category label_name classname object type",
    "width": "image_width img_width width",
    "height": "image_height img_height height",
    "split": "split set subset partition usage",
}
"""What tools call their columns; `width` is the picture's where there are corners, else the box's."""
RETINANET = ("file", "x1", "y1", "x2", "y2", "class")
SIDES = ("x1", "y1", "x2", "y2", "x", "y", "w", "h")
MOST_SHARE = 2.0
"""A share of the picture's side may be a little above 1; boxes in pixels are larger."""
LISTS = ("classes.csv", "class_mapping.csv", "class-descriptions.csv", "_classes.csv")


def recognise(source: Source) -> str:
    return source.sign(path for path in _files(source)[:20] if _columns_of(peek(path)))


def read(source: Source) -> Labels:
    """The boxes of all files that have the columns of boxes."""
    labels = Labels([], source.problems)
    if listed := source.first(*LISTS):
        numbered = [(int(row[1]), row[0]) for _, row in rows_of(listed) if len(row) > 1 and row[1].isdigit()]
        labels.classes = [name for _, name in sorted(numbered)]
    pictures: dict[tuple[str, str], Picture | None] = {}
    read_any = False
    for path in _files(source):
        rows = rows_of(path)
        columns = _columns(rows[0][1]) if rows else {}
        if not columns:
            continue
        read_any = True
        if columns.pop("head", 0):
            rows = rows[1:]
        if mark_of(peek(path)) != ",":  # or it may stand before thousands
            rows = _with_points(rows, columns)
        shares = _in_shares(rows, columns)
        for line, row in rows:
            _row(source, pictures, columns, row, path, line, shares)
    if not read_any:
        raise DataError(
            f"No CSV file of {source.path} has columns for a file name, a box and a class; a head is "
            "for example filename,xmin,ymin,xmax,ymax,class."
        )
    labels.pictures = [picture for picture in pictures.values() if picture is not None]
    return labels


def _in_shares(rows: list[tuple[int, list[str]]], columns: dict[str, int]) -> bool:
    """Whether the boxes of a file are shares of their pictures: no number in it is larger than that."""
    places = [place for key, place in columns.items() if key in SIDES]
    found = [number(row[place]) for _, row in rows for place in places if place < len(row)]
    known = [abs(value) for value in found if value is not None]
    return bool(known) and max(known) <= MOST_SHARE


def _files(source: Source) -> list[Path]:
    return [path for path in source.files(".csv", ".tsv") if path.name.lower() not in LISTS]


def _columns_of(start: str) -> dict[str, int]:
    """The columns of a file that begins like this."""
    line = next((line for line in start.splitlines() if line.strip()), "")
    return _columns([cell.strip().strip('"') for cell in line.split(mark_of(line))])


def _columns(row: list[str]) -> dict[str, int]:
    """Place of each column that counts, and `head` if the row names them; empty for another table."""
    names = [cell.lower().replace(" ", "_").replace("-", "_") for cell in row]
    found = {}
    for key, known in COLUMNS.items():
        for name in known.split():
            if name in names:
                found[key] = names.index(name)
                break
    by_corners = {"x1", "y1", "x2", "y2"} <= found.keys()
    if {"file", "class"} <= found.keys() and (by_corners or {"x", "y", "w", "h"} <= found.keys()):
        for key in ("x", "y", "w", "h") if by_corners else ("x1", "y1", "x2", "y2"):
            found.pop(key, None)
        for side, key in (("w", "width"), ("h", "height")):
            if found.get(side) == found.get(key):
                found.pop(key, None)
        return {**found, "head": 1}
    filled = [number(_with_point(cell)) is not None for cell in row[1:5]]
    if len(row) == 6 and number(row[0]) is None and (all(filled) or not any(row[1:])):
        return {key: place for place, key in enumerate(RETINANET)}
    return {}


def _with_points(rows: list[tuple[int, list[str]]], columns: dict[str, int]) -> list[tuple[int, list[str]]]:
    """Rows of a table whose numbers have a comma in place of the point, as those of many countries."""
    places = {place for key, place in columns.items() if key in SIDES}
    return [(line, [_with_point(c) if k in places else c for k, c in enumerate(row)]) for line, row in rows]


def _with_point(cell: str) -> str:
    return re.sub(r"^(-?\d+),(\d+)$", r"\1.\2", cell)


def _row(
    source: Source,
    pictures: dict[tuple[str, str], Picture | None],
    columns: dict[str, int],
    row: list[str],
    path: Path,
    line: int,
    shares: bool,
) -> None:
    """One box; a row with a name alone is a picture without objects."""
    cells = {key: row[place] for key, place in columns.items() if place < len(row)}
    where, name = source.place(path, line), cells.get("file", "")
    said = cells.get("split", "")
    split = split_of(said) or source.split(path, name)
    if said and not split:
        source.problems.report(
            "split of an unknown name, taken as none", f"{where}: {said[:40]}", effect=DOUBTFUL
        )
    if (name, split) not in pictures:
        size = (cells.get("height"), cells.get("width"))
        found = source.find(name, path.parent, split) or source.with_stem(name, path.parent)
        pictures[name, split] = source.open(found, f"{where}: {name[:200]}", size=size, split=split)
    picture = pictures[name, split]
    values = {key: cells.get(key, "") for key in SIDES if key in columns}
    if picture is None or not any(values.values()):
        return
    known = [number(value) for value in values.values()]
    if len(known) < 4 or None in known:
        source.problems.report("row without four numbers", where)
        return
    a, b, c, d = (value for value in known if value is not None)
    if shares:
        height, width = picture.size
        a, b, c, d = a * width, b * height, c * width, d * height
    box = corners((a, b), (c, d)) if "x1" in values else (a, b, a + c, b + d)
    picture.things.append(Thing(cells.get("class", ""), box, where=where))
