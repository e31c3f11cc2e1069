"""Referring expressions of a folder: RefCOCO's `refs(*.p)` or gRefCOCO's `grefs(unc).json`.

Objects stand in `instances.json`. Every sentence is an example. In gRefCOCO `ann_id` is a list: of several
objects, or `[-1]` for none (`no_target`). The objects of a sentence count together.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from ufo.data.datasets.base import read_json, require
from ufo.data.datasets.coco_file import area_of, box_of, coco_sections, flag, key_of, short
from ufo.data.datasets.refcoco import OTHER_IMAGE, incomplete, is_of_another_image
from ufo.data.datasets.refs import read_refs
from ufo.data.errors import DataError
from ufo.score.truth.coco import size_of
from ufo.score.truth.examples import Example, Truth, encode

NONE = -1
"""The id of the annotation that a text has which means nothing."""


def read_refer(folder: Path, split: str | None, refs: str | None = None) -> Truth:
    """The sentences of one split.

    Args:
        folder: holds the refs and `instances.json`.
        split: exact name (val, testA, ...).
        refs: name of the refs file, where the folder has several.

    Raises DataError if a file is missing or unusable, or there is no such split.
    """
    path = folder / refs if refs else find_refs(folder)
    generalized = path.suffix == ".json"
    records = read_refs(require(path, "refs"))
    chosen = [ref for ref in records if ref["split"] == split]
    if not chosen:
        there = ", ".join(sorted({str(ref["split"]) for ref in records}))
        what = "give --split" if split is None else f"there is no split '{split}'; give --split"
        raise DataError(f"{path}: {what} with one of: {there}.")
    content = coco_sections(
        read_json(require(folder / "instances.json", "instances")), folder / "instances.json"
    )
    names = {key_of(category, "id"): str(category["name"]) for category in content["categories"]}
    labels = {key: i for i, key in enumerate(names)}
    images = {key_of(record, "id"): record for record in content["images"]}
    objects = {key_of(record, "id"): record for record in content["annotations"]}
    examples, others = [], 0
    for ref in chosen:
        others += is_of_another_image(ref, objects)
        example = _of_ref(ref, images, objects, labels, path)
        for sentence in ref["sentences"]:
            examples.append(_said(example, sentence))
    found = Truth(path, examples, tuple(names.values()), labels, expressions=True, generalized=generalized)
    found.remarks += [f"{others}x {OTHER_IMAGE}"] if others else []
    return found


def find_refs(folder: Path) -> Path:
    """The only refs file of a folder. Raises DataError if there is none, or several."""
    found = sorted([*folder.glob("refs(*).p"), *folder.glob("grefs(*).json")])
    if len(found) == 1:
        return found[0]
    if not found:
        raise DataError(f"{folder} has no refs(*).p of RefCOCO and no grefs(*).json of gRefCOCO.")
    names = ", ".join(path.name for path in found)
    raise DataError(f"{folder} has several files of expressions ({names}); choose one with --refs.")


def _of_ref(
    ref: dict[str, Any], images: dict[Any, Any], objects: dict[Any, Any], labels: dict[Any, int], path: Path
) -> Example:
    """What all sentences of a ref have in common."""
    where = f"ref {short(ref.get('ref_id'))}"
    ids = ref["ann_id"] if isinstance(ref["ann_id"], (list, tuple)) else [ref["ann_id"]]
    record = images.get(key_of(ref, "image_id"))
    if problem := incomplete(ref, record, objects):
        raise DataError(f"{path}: {where} is a {problem}; correct the file or leave it out.")
    assert record is not None  # or it would be incomplete
    example = Example(key_of(record, "id") or 0, (str(record["file_name"]),), size_of(record))
    segmentations = []
    for key in ids:
        if key == NONE:
            continue
        annotation = objects[key]
        box = box_of(annotation)
        assert box is not None  # or it would be incomplete
        if len(ids) > 1 and flag(annotation, "iscrowd"):  # gRefCOCO's own reader leaves them out
            continue
        example.boxes.append(list(box))
        example.labels.append(labels.get(key_of(annotation, "category_id"), -1))
        example.areas.append(area_of(annotation, box, example.size))
        segmentations.append(annotation.get("segmentation"))
    if example.size is not None:
        example.masks = partial(encode, segmentations, example.size)
    return example


def _said(example: Example, sentence: dict[str, Any]) -> Example:
    """The example of one sentence."""
    kind = sentence.get("is_sentence")
    return Example(
        **{
            **vars(example),
            "text": str(sentence["sent"]),
            "id": key_of(sentence, "sent_id"),
            "sentence": bool(kind) if isinstance(kind, (bool, int)) else None,
        }
    )
