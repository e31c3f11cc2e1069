"""COCO annotations: one example per image, every annotation with a box, crowd marked as it is."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from ufo.data.datasets.base import read_json
from ufo.data.datasets.coco_file import (
    FEDERATED,
    ODD_AREA,
    area_of,
    box_of,
    coco_sections,
    flag,
    key_of,
    refuse_shared_id,
    short,
    side_of,
    some_classes_only,
    stated_area,
)
from ufo.data.datasets.segmentations import Segmentations
from ufo.data.errors import DataError
from ufo.score.truth.examples import Example, Truth, encode


def read_coco(path: Path) -> Truth:
    """Raises DataError if the file is none or two images have one id."""
    content = read_json(path)
    if isinstance(content, list):
        raise DataError(
            f"{path} is a list, as predictions are, and holds no annotations; write ufo score PREDICTIONS "
            "--against ANNOTATIONS."
        )
    content = coco_sections(content, path)
    names = [str(category["name"]) for category in content["categories"]]
    categories = {key_of(category, "id"): i for i, category in enumerate(content["categories"])}
    refuse_shared_id(content["categories"], path)
    examples: dict[Any, Example] = {}
    for record in content["images"]:
        key, name = key_of(record, "id"), str(record["file_name"])
        assert key is not None  # or the sections would have been refused
        if key in examples:
            raise DataError(
                f"{path}: the images {short(examples[key].names[0])} and {short(name)} have the same id "
                f"{short(key)}; number the images anew, and their annotations."
            )
        examples[key] = Example(key, (name,), size_of(record))
    doubts = Counter({FEDERATED: sum(map(some_classes_only, content["images"]))})
    segmented: dict[Any, list[Any]] = {key: [] for key in examples}
    lost: Counter[str] = Counter()
    for record in content["annotations"]:
        example = examples.get(key_of(record, "image_id"))
        label, box = categories.get(key_of(record, "category_id")), box_of(record)
        if example is None or label is None or box is None:
            problem = "image" if example is None else "category" if label is None else "box"
            lost[f"without a {problem} in the file"] += 1
            continue
        example.boxes.append(list(box))
        example.labels.append(label)
        example.crowd.append(flag(record, "iscrowd"))
        example.areas.append(area_of(record, box, example.size))
        doubts[ODD_AREA] += record.get("area") is not None and stated_area(record) is None
        segmented[example.image].append(record.get("segmentation"))
    masks = any(segmentation for found in segmented.values() for segmentation in found)
    remarks = [f"{number} annotations {problem} were left out" for problem, number in lost.items()]
    remarks += [f"{number}x {kind}" for kind, number in doubts.items() if number]
    if masks:
        remarks += _attach_masks(examples, segmented, path)
    return Truth(path, list(examples.values()), tuple(names), categories, masks=masks, remarks=remarks)


def size_of(record: dict[str, Any]) -> tuple[int, int] | None:
    """(height, width) that an image record states; None if it does not."""
    height, width = side_of(record.get("height")), side_of(record.get("width"))
    return (height, width) if height and width else None


def _attach_masks(examples: dict[Any, Example], segmented: dict[Any, list[Any]], path: Path) -> list[str]:
    """Give the examples their masks; an object without a usable one is neither found nor missed there."""
    unusable: list[str] = []
    for key, example in examples.items():
        if example.size is None:
            raise DataError(
                f"{path}: image {short(key)} has no `height` and `width`, which masks need; add them."
            )
        example.no_mask = frozenset(
            number
            for number, segmentation in enumerate(segmented[key])
            if not segmentation or Segmentations().append(segmentation, example.size)
        )
        unusable += [f"object {number + 1} of image {short(key)}" for number in sorted(example.no_mask)]
        example.masks = partial(encode, segmented[key], example.size)
    if not unusable:
        return []
    return [
        f"{len(unusable)} annotated objects have no usable mask: where masks are scored they are neither "
        f"found nor missed (first: {unusable[0]})"
    ]
