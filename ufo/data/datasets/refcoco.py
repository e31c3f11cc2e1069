"""Referring expressions in the RefCOCO format: `instances.json`, `refs(*.p)`; or gRefCOCO's `grefs(*.json)`.

See docs/published_system.md#refer.
Every sentence of every reference is a sample of its own, in training and in evaluation. A sentence may say
`is_sentence`: whether it is a whole sentence or a phrase (reasoning segmentation). A reference of gRefCOCO
lists the annotations it means, or none: `ann_id: [3, 7]`, `[-1]` (Liu et al. 2023).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

from ufo.data.datasets.base import ImageDataset, Strings, read_json, require, require_images
from ufo.data.datasets.captions import clean_text
from ufo.data.datasets.coco_file import (
    LEAVING,
    Box,
    area_of,
    box_of,
    coco_sections,
    key_of,
    leaves_image,
    outside,
    short,
    size_of,
)
from ufo.data.datasets.refs import read_refs
from ufo.data.datasets.segmentations import Segmentations, decode_masks, empty_rle
from ufo.data.errors import DataError
from ufo.data.problems import DOUBTFUL, LEFT_OUT, NEGATIVE_SIZE, Problems
from ufo.data.texts import usable_text
from ufo.types import Sample, Target

OTHER_IMAGE = "ref whose annotation is of another image"


class RefCocoDataset(ImageDataset):
    """Sentences that each single out one object, or in gRefCOCO's files any number `n` of them.

    Args:
        images: folder that the file names in the instances file start from.
        root: folder of one referring data set, with `refs` and `instances` in it.
        refs: name of the pickle or of the JSON, such as "refs(unc).p" or "grefs(unc).json".
        split: the refs to use, by exact name (train, val, testA, ...).
        instances: name of the COCO-style JSON.
        train: samples carry `text` and the objects' boxes, [n, 4]; otherwise `text` alone.
        masks: read segmentations: samples for training also carry the objects' masks, uint8
            [n, H, W], targets their RLE; all zero where the file has none.
        clean: texts are lower-cased and lose their punctuation.

    Raises DataError if a file is missing or unusable or there is no such split.
    """

    provides = frozenset({"expression", "boxes", "masks"})

    def __init__(
        self,
        images: str | Path,
        root: str | Path,
        *,
        refs: str,
        split: str,
        instances: str = "instances.json",
        train: bool = False,
        masks: bool = False,
        clean: bool = True,
    ) -> None:
        self.images = require(images, "images", folder=True)
        root = require(root, "root", folder=True)
        path = require(root / refs, "refs")
        self.train, self.masks = train, masks
        self.provides = frozenset({"expression", "boxes"} | ({"masks"} if masks else set()))
        self.problems = Problems(str(path), quiet=True)
        content = coco_sections(read_json(require(root / instances, "instances")), root / instances)
        chosen = _of_split(read_refs(path), split, path)
        self._read(chosen, content, clean, path)
        require_images(self.images, self._names)

    def _read(self, refs: list[dict[str, Any]], content: dict[str, Any], clean: bool, path: Path) -> None:
        """Fill the tables of images, objects and sentences."""
        image_of = _by_id(content["images"], "images", self.problems)
        annotation_of = _by_id(content["annotations"], "annotations", self.problems)
        rows: dict[Any, int] = {}  # image id -> row of the image table
        sizes: dict[int, tuple[int, int]] = {}
        references: list[tuple[int, int]] = []  # image row, the end of its objects
        objects: list[tuple[float, ...]] = []  # x1, y1, x2, y2, area
        # reference, text, 1 / 0 / -1: a sentence / a phrase / unknown
        sentences: list[tuple[int, str, int]] = []
        self._segmentations = Segmentations()
        for ref in refs:
            where = f"ref {short(ref.get('ref_id'))}"
            record = image_of.get(ref["image_id"])
            if problem := incomplete(ref, record, annotation_of):
                if not self.train:
                    raise DataError(f"{path}: {where} is a {problem}; correct the file or leave it out.")
                self.problems.report(problem, where)
                continue
            assert record is not None  # or it would be incomplete
            annotations = [annotation_of[key] for key in _referred(ref)]
            boxes = [box for annotation in annotations if (box := box_of(annotation))]
            try:
                size = size_of(record, self.images, self.problems)
            except DataError as error:
                if not self.train:
                    raise
                self.problems.report("image without a usable size", str(error))
                continue
            if lost := next((box for box in boxes if outside(box, size)), None):
                effect = LEFT_OUT if self.train else DOUBTFUL
                self.problems.report(_why_outside(lost), where, effect=effect)
                if self.train:
                    continue
            elif any(leaves_image(box, size) for box in boxes):
                self.problems.report(LEAVING, where, effect=DOUBTFUL)
            if is_of_another_image(ref, annotation_of):
                self.problems.report(OTHER_IMAGE, where, effect=LEFT_OUT if self.train else DOUBTFUL)
                if self.train:
                    continue
            for annotation, box in zip(annotations, boxes, strict=True):
                objects.append(self._object(annotation, box, size, where))
            row = rows.setdefault(record["id"], len(rows))
            number = len(references)
            references.append((row, len(objects)))
            sizes.setdefault(row, size)
            for sentence in ref["sentences"]:
                said, problem = usable_text(sentence["sent"], self.train)
                text = clean_text(said) if clean else said.strip()
                if problem or not text:
                    effect = LEFT_OUT if self.train else DOUBTFUL
                    self.problems.report(problem or "empty sentence", where, effect=effect)
                if text or not self.train:
                    sentences.append((number, text, _kind_of(sentence)))
        self._ids = list(rows)
        self._names = Strings(image_of[key]["file_name"] for key in rows)
        self._sizes = np.asarray(list(sizes.values()), dtype=np.int64).reshape(-1, 2)
        self._keep(objects, references, sentences)

    def _keep(
        self,
        objects: list[tuple[float, ...]],
        references: list[tuple[int, int]],
        sentences: list[tuple[int, str, int]],
    ) -> None:
        """What `_read` has found, as arrays."""
        table = np.asarray(objects, dtype=np.float64).reshape(-1, 5)
        self._boxes = table[:, :4].astype(np.float32)
        self._areas = table[:, 4].astype(np.float32)
        self._rows, ends = np.asarray(references, dtype=np.int64).reshape(-1, 2).T
        self._starts = np.concatenate([[0], ends])
        self._reference = np.asarray([number for number, _, _ in sentences], dtype=np.int64)
        self._texts = Strings(text for _, text, _ in sentences)
        self._kinds = np.asarray([kind for _, _, kind in sentences], dtype=np.int8)
        if len(sentences) and self._kinds.min() >= 0:
            self.provides |= {"sentence"}

    def _object(
        self, annotation: dict[str, Any], box: Box, size: tuple[int, int], where: str
    ) -> tuple[float, ...]:
        """An object's corners and area; its segmentation is kept, too."""
        if self.masks:
            problem = self._segmentations.append(annotation.get("segmentation"), size)
            if problem and annotation.get("segmentation"):
                self.problems.report(problem, where)
        x, y, w, h = box
        return x, y, x + w, y + h, area_of(annotation, box, None if self.train else size)

    def __len__(self) -> int:
        return len(self._texts)

    def image_rows(self) -> np.ndarray:
        """The number of each sentence's image, int64 [len]."""
        return self._rows[self._reference]

    def objects(self) -> np.ndarray:
        """How many objects each sentence means, int64 [len]."""
        return np.diff(self._starts)[self._reference]

    def __getitem__(self, i: int) -> Sample:
        text = self._texts[i]
        things, row, size = self._place(i)
        image = self._picture(self._names[row], size)
        seen: Sample = {"image": image, "text": text}
        if "sentence" in self.provides:
            seen["sentence"] = bool(self._kinds[i])
        if not self.train:
            return seen
        boxes = tv_tensors.BoundingBoxes(
            torch.from_numpy(self._boxes[things].copy()),
            format=tv_tensors.BoundingBoxFormat.XYXY,
            canvas_size=size,
        )
        sample: Sample = {**seen, "boxes": boxes}
        if self.masks:
            sample["masks"] = tv_tensors.Mask(decode_masks(self._rles(things, size), size))
        return sample

    def said(self, i: int) -> list[str]:
        return [self._texts[i]]

    def target(self, i: int) -> Target:
        things, row, size = self._place(i)
        return Target(
            id=i,
            size=size,
            image=str(self._file(self._names[row])),
            image_id=self._ids[row],
            boxes=torch.from_numpy(self._boxes[things].copy()),
            masks=self._rles(things, size) if self.masks else None,
            area=torch.from_numpy(self._areas[things].copy()),
            text=self._texts[i],
            sentence=bool(self._kinds[i]) if "sentence" in self.provides else None,
        )

    def portrait(self) -> Tensor:
        sizes = self._sizes[self._rows[self._reference]]
        return torch.from_numpy(sizes[:, 1] < sizes[:, 0])

    def _place(self, i: int) -> tuple[slice, int, tuple[int, int]]:
        """Rows of sentence `i` in the tables of objects and images, and the image's (h, w)."""
        number = int(self._reference[i])
        row = int(self._rows[number])
        things = slice(int(self._starts[number]), int(self._starts[number + 1]))
        return things, row, (int(self._sizes[row, 0]), int(self._sizes[row, 1]))

    def _rles(self, things: slice, size: tuple[int, int]) -> list[dict[str, Any]]:
        """The objects' masks; all zero where the file has none (then only a box is known)."""
        numbers = range(things.start, things.stop)
        return [self._segmentations.rle(thing, size) or empty_rle(size) for thing in numbers]


def _by_id(records: list[dict[str, Any]], section: str, problems: Problems) -> dict[Any, dict[str, Any]]:
    """Records by their ids; DataError for an image id that stands for two files."""
    found: dict[Any, dict[str, Any]] = {}
    for record in records:
        key = key_of(record, "id")
        other = found.setdefault(key, record)
        if other is record:
            continue
        if section == "annotations":
            problems.report("annotation id used twice", f"annotation {short(key)}", effect=DOUBTFUL)
        elif other["file_name"] != record["file_name"]:
            raise DataError(
                f"{problems.source}: the images {short(other['file_name'])} and {short(record['file_name'])} "
                f"have the same id {short(key)}; number the images anew, and their annotations."
            )
    return found


def _referred(ref: dict[str, Any]) -> list[Any]:
    """The ids of the annotations that a reference means; gRefCOCO writes -1 for none."""
    ids = ref["ann_id"] if isinstance(ref["ann_id"], (list, tuple)) else [ref["ann_id"]]
    return [key for key in ids if key != -1]


def incomplete(ref: dict[str, Any], image: Any, annotation_of: dict[Any, dict[str, Any]]) -> str | None:
    """What the instances file lacks of a reference and its `image`, as a kind of problem; None: nothing."""
    if image is None:
        return "ref whose image is not in the instances file"
    annotations = [annotation_of.get(key) for key in _referred(ref)]
    if None in annotations:
        return "ref whose annotation is not in the instances file"
    boxed = all(annotation and box_of(annotation) for annotation in annotations)
    return None if boxed else "ref whose annotation has no usable box"


def _why_outside(box: Box) -> str:
    """What is wrong with a box that has no area in common with its image."""
    side = min(box[2:])
    return NEGATIVE_SIZE if side < 0 else "box smaller than a pixel" if side < 1 else "box outside its image"


def is_of_another_image(ref: dict[str, Any], annotation_of: dict[Any, dict[str, Any]]) -> bool:
    """Whether a reference means an annotation that is not in its image."""
    owners = {key_of(annotation_of.get(key, {}), "image_id") for key in _referred(ref)}
    return not owners <= {None, key_of(ref, "image_id")}


def _kind_of(sentence: dict[str, Any]) -> int:
    """1: a whole sentence, 0: a phrase, -1: the file does not say."""
    value = sentence.get("is_sentence")
    return int(value) if isinstance(value, (bool, int)) and value in (0, 1) else -1


def _of_split(refs: list[dict[str, Any]], split: str, path: Path) -> list[dict[str, Any]]:
    chosen = [ref for ref in refs if ref["split"] == split]
    if not chosen:
        there = ", ".join(sorted({str(ref["split"]) for ref in refs}))
        raise DataError(f"{path} has no split {split!r}; set `split` to one of: {there}.")
    return chosen
