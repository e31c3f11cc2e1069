"""Class names as expressions: each means all objects of its class, or nothing where the class is absent.

So any data set with boxes asks a referring task for none, one or several objects. It must be annotated
completely: a class that nobody looked for is not absent (LVIS, Open Images).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ufo.data.augmentations import select
from ufo.data.datasets.base import ImageDataset
from ufo.data.datasets.coco import CocoDataset
from ufo.data.errors import DataError
from ufo.types import Sample, Target

ABSENT = 0xAB5  # key of the generator that draws the names of absent classes


class ClassNamesDataset(ImageDataset):
    """A sample for every image and class in it, and for some classes that are not.

    Args:
        images, annotations, options: as of `CocoDataset`.
        absent: share of the samples whose class is absent, in 0..1; an image with all classes has none.
        seed: which absent classes an image is asked for; it follows from this alone.

    Raises DataError as `CocoDataset`, and for a share out of range.
    """

    def __init__(
        self,
        images: str | Path,
        annotations: str | Path,
        *,
        absent: float = 0.5,
        seed: int = 0,
        train: bool = False,
        **options: Any,
    ) -> None:
        if not 0 <= absent < 1:
            raise DataError(f"`absent` is a share of the samples from 0 to below 1, not {absent}.")
        self.data = CocoDataset(images, annotations, train=train, **options)
        self.images, self.train, self.problems = self.data.images, train, self.data.problems
        self.names, self.absent, self.seed = self.data.classes, absent, seed
        self.provides = frozenset({"expression", "boxes"} | ({"masks"} if self.data.masks else set()))
        self._rows, self._labels, self._counts = self._asked()

    def serve(self, needs: frozenset[str], *, pasting: bool = False) -> None:
        self.data.serve(needs - {"expression"}, pasting=pasting)
        self._rows, self._labels, self._counts = self._asked()

    def _asked(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image, class and number of objects of every sample, each int64 [len]."""
        starts, labels = self.data.label_sets()
        classes = len(self.names)
        images = len(starts) - 1
        owner = np.repeat(np.arange(images), np.diff(starts))
        pairs, counts = np.unique(owner * classes + labels, return_counts=True)
        present = np.bincount(pairs // classes, minlength=images)
        wanted = np.minimum(np.round(present * self.absent / (1 - self.absent)), classes - present)
        # images without any object are asked for one class, if any are to be absent
        wanted = np.where((present == 0) & (self.absent > 0), min(1, classes), wanted).astype(np.int64)
        missing = [self._missing(i, pairs, int(n)) for i, n in enumerate(wanted) if n]
        drawn = np.concatenate([*missing, np.zeros(0, np.int64)])
        both, number = np.concatenate([pairs, drawn]), np.concatenate([counts, np.zeros_like(drawn)])
        order = np.argsort(both, kind="stable")
        return both[order] // classes, both[order] % classes, number[order]

    def _missing(self, image: int, pairs: np.ndarray, number: int) -> np.ndarray:
        """So many pairs (image * classes + class) of classes that an image lacks."""
        classes = len(self.names)
        first, last = np.searchsorted(pairs, [image * classes, (image + 1) * classes])
        lacking = np.setdiff1d(np.arange(classes), pairs[first:last] % classes, assume_unique=True)
        # raw words: what Generator.choice does with them may change between NumPy versions
        words = np.random.Philox(key=[self.seed, ABSENT], counter=[0, 0, 0, image]).random_raw(len(lacking))
        return image * classes + np.sort(lacking[np.argsort(words, kind="stable")[:number]])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: int) -> Sample:
        row, label = self._place(i)
        whole = self.data[row]
        if not self.train:
            return {"image": whole["image"], "text": self.names[label]}
        chosen = select(whole, whole["labels"] == label)
        kept: Sample = {"image": chosen["image"], "text": self.names[label], "boxes": chosen["boxes"]}
        return {**kept, "masks": chosen["masks"]} if "masks" in chosen else kept

    def target(self, i: int) -> Target:
        row, label = self._place(i)
        whole = self.data.target(row)
        assert whole.labels is not None and whole.iscrowd is not None
        assert whole.boxes is not None and whole.area is not None
        kept = (whole.labels == label) & ~whole.iscrowd
        places = kept.nonzero()[:, 0].tolist()
        return Target(
            id=i,
            size=whole.size,
            image=whole.image,
            image_id=whole.image_id,
            boxes=whole.boxes[kept],
            masks=None if whole.masks is None else [whole.masks[k] for k in places],
            area=whole.area[kept],
            text=self.names[label],
        )

    def said(self, i: int) -> list[str]:
        return [self.names[self._place(i)[1]]]

    def objects(self) -> np.ndarray:
        """How many objects each sample means, int64 [len]."""
        return self._counts

    def files(self) -> list[str]:
        return self.data.files()

    def portrait(self) -> Tensor:
        return self.data.portrait()[torch.from_numpy(self._rows)]

    def _place(self, i: int) -> tuple[int, int]:
        if not 0 <= i < len(self):
            raise IndexError(i)
        return int(self._rows[i]), int(self._labels[i])
