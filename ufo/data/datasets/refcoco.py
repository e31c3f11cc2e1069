"""Referring expressions in the RefCOCO format: `instances.json`, `refs(*.p)`.

See docs/published_system.md#refer.
Every sentence of every referred object is a sample of its own, in training and in evaluation. A sentence may
say `is_sentence`: whether it is a whole sentence or a phrase (reasoning segmentation).
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

from ufo.data.datasets.base import ImageDataset, Strings, read_json, require, require_images
from ufo.data.datasets.captions import clean_text
from ufo.data.datasets.coco_file import area_of, box_of, coco_sections, key_of, outside, short, size_of
from ufo.data.datasets.segmentations import Segmentations, decode_masks, empty_rle
from ufo.data.errors import DataError
from ufo.data.problems import DOUBTFUL, LEFT_OUT, Problems
from ufo.data.texts import usable_text
from ufo.types import Sample, Target


class RefCocoDataset(ImageDataset):
    """Sentences that each single out one object.

    Args:
        images: folder that the file names in the instances file start from.
        root: folder of one referring data set, with `refs` and `instances` in it.
        refs: name of the pickle, such as "refs(unc).p".
        split: the refs to use, by exact name (train, val, testA, ...).
        instances: name of the COCO-style JSON.
        train: samples carry `text` and the object's box, [1, 4]; otherwise `text` alone.
        masks: read segmentations: samples for training also carry the object's mask, uint8
            [1, H, W], targets its RLE; all zero where the file has none.
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
        objects: list[tuple[float, ...]] = []  # image row, x1, y1, x2, y2, area
        sentences: list[
            tuple[int, str, int]
        ] = []  # object, text, 1 / 0 / -1: a sentence / a phrase / unknown
        self._segmentations = Segmentations()
        for ref in refs:
            where = f"ref {short(ref.get('ref_id'))}"
            annotation = annotation_of.get(ref["ann_id"])
            record = image_of.get(ref["image_id"])
            box = box_of(annotation) if annotation else None
            if record is None or annotation is None or box is None:
                if not self.train:
                    raise DataError(f"{path}: {where} has no image or no box in the instances file.")
                self.problems.report("ref without image or box", where)
                continue
            try:
                size = size_of(record, self.images, self.problems)
            except DataError as error:
                if not self.train:
                    raise
                self.problems.report("image without a usable size", str(error))
                continue
            if outside(box, size):
                effect = LEFT_OUT if self.train else DOUBTFUL
                self.problems.report("box outside its image", where, effect=effect)
                if self.train:
                    continue
            if self.masks:
                problem = self._segmentations.append(annotation.get("segmentation"), size)
                if problem and annotation.get("segmentation"):
                    self.problems.report(problem, where)
            row = rows.setdefault(record["id"], len(rows))
            x, y, w, h = box
            number = len(objects)
            objects.append((row, x, y, x + w, y + h, area_of(annotation, box)))
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
        table = np.asarray(objects, dtype=np.float64).reshape(-1, 6)
        self._rows = table[:, 0].astype(np.int64)
        self._boxes = table[:, 1:5].astype(np.float32)
        self._areas = table[:, 5].astype(np.float32)
        self._object = np.asarray([number for number, _, _ in sentences], dtype=np.int64)
        self._texts = Strings(text for _, text, _ in sentences)
        self._kinds = np.asarray([kind for _, _, kind in sentences], dtype=np.int8)
        if len(sentences) and self._kinds.min() >= 0:
            self.provides |= {"sentence"}

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, i: int) -> Sample:
        text = self._texts[i]
        thing, row, size = self._place(i)
        image = self._picture(self._names[row], size)
        seen: Sample = {"image": image, "text": text}
        if "sentence" in self.provides:
            seen["sentence"] = bool(self._kinds[i])
        if not self.train:
            return seen
        boxes = tv_tensors.BoundingBoxes(
            torch.from_numpy(self._boxes[thing : thing + 1].copy()),
            format=tv_tensors.BoundingBoxFormat.XYXY,
            canvas_size=size,
        )
        sample: Sample = {**seen, "boxes": boxes}
        if self.masks:
            sample["masks"] = tv_tensors.Mask(decode_masks([self._rle(thing, size)], size))
        return sample

    def said(self, i: int) -> list[str]:
        return [self._texts[i]]

    def target(self, i: int) -> Target:
        thing, row, size = self._place(i)
        return Target(
            id=i,
            size=size,
            image=str(self._file(self._names[row])),
            image_id=self._ids[row],
            boxes=torch.from_numpy(self._boxes[thing : thing + 1].copy()),
            masks=[self._rle(thing, size)] if self.masks else None,
            area=torch.from_numpy(self._areas[thing : thing + 1].copy()),
            text=self._texts[i],
            sentence=bool(self._kinds[i]) if "sentence" in self.provides else None,
        )

    def portrait(self) -> Tensor:
        sizes = self._sizes[self._rows[self._object]]
        return torch.from_numpy(sizes[:, 1] < sizes[:, 0])

    def _place(self, i: int) -> tuple[int, int, tuple[int, int]]:
        """Rows of sentence `i` in the tables of objects and images, and the image's (h, w)."""
        thing = int(self._object[i])
        row = int(self._rows[thing])
        return thing, row, (int(self._sizes[row, 0]), int(self._sizes[row, 1]))

    def _rle(self, thing: int, size: tuple[int, int]) -> dict[str, Any]:
        """The object's mask; all zero where the file has none (then only its box is known)."""
        return self._segmentations.rle(thing, size) or empty_rle(size)


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


def _kind_of(sentence: dict[str, Any]) -> int:
    """1: a whole sentence, 0: a phrase, -1: the file does not say."""
    value = sentence.get("is_sentence")
    return int(value) if isinstance(value, (bool, int)) and value in (0, 1) else -1


class _PlainUnpickler(pickle.Unpickler):
    """Reads numbers, texts and containers only: a pickle that names any other class is refused.

    Pickle needs no global name for dict, list, tuple, str, bytes and numbers, so none but `set` is
    looked up, and a name that is not looked up can't be called.
    """

    def find_class(self, module: str, name: str) -> Any:
        if module in {"builtins", "__builtin__"} and name in {"set", "frozenset"}:
            return {"set": set, "frozenset": frozenset}[name]
        raise pickle.UnpicklingError(f"it wants to run {module}.{name}")


def read_refs(path: str | Path) -> list[dict[str, Any]]:
    """The refs of a RefCOCO pickle; nothing that the file contains is executed.

    Raises DataError if it holds anything but plain data, is cut short or lacks a field.
    """
    try:
        with open(path, "rb") as file:
            # The official files are Python 2 pickles, whose texts are bytes to decode.
            refs = _PlainUnpickler(file, encoding="utf-8", errors="replace").load()
    except pickle.UnpicklingError as error:
        raise DataError(f"{path} is refused: {error}; refs files hold plain data only.") from error
    except Exception as error:  # a broken pickle can fail in any way
        raise DataError(f"{path} is not a refs pickle or is cut short ({error}).") from error
    if not isinstance(refs, list) or not all(map(_is_ref, refs)):
        raise DataError(
            f"{path} is not a list of refs with ann_id, image_id, split and sentences with `sent`."
        )
    return refs


def _is_ref(ref: Any) -> bool:
    if not isinstance(ref, dict) or not {"ann_id", "image_id", "split", "sentences"} <= ref.keys():
        return False
    # what is nested here could be a few bytes that spell gigabytes
    ids = all(isinstance(ref[key], (int, str)) for key in ("ann_id", "image_id", "split"))
    sentences = ref["sentences"]
    return (
        ids
        and isinstance(sentences, (list, tuple))
        and all(isinstance(s, dict) and "sent" in s for s in sentences)
    )


def _of_split(refs: list[dict[str, Any]], split: str, path: Path) -> list[dict[str, Any]]:
    chosen = [ref for ref in refs if ref["split"] == split]
    if not chosen:
        there = ", ".join(sorted({str(ref["split"]) for ref in refs}))
        raise DataError(f"{path} has no split {split!r}; set `split` to one of: {there}.")
    return chosen
