"""Your own records, one JSON object per line: texts or conversations about an image, with masks or boxes.

{"image": "a.jpg", "text": "the left owl", "masks": [[[4, 8, 24, 8, 24, 24]]]}
{"image": "a.jpg", "text": "the left owl", "mask": "masks/a.png"}
{"image": "b.jpg", "conversations": [{"from": "human", "value": "How many owls?"},
                                     {"from": "gpt", "value": "Two: <mask><mask>"}], "masks": [...]}
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

from ufo.data.datasets.base import ImageDataset, Strings, require, require_images
from ufo.data.datasets.jsonl_reader import TEXTS, USES, Reader
from ufo.data.datasets.segmentations import RLE, Segmentations, decode_masks, empty_rle, encode_mask
from ufo.data.errors import DataError
from ufo.data.index import cached
from ufo.data.pictures import read_label_map
from ufo.data.problems import DOUBTFUL, Problems
from ufo.types import Sample, Target


class JsonlDataset(ImageDataset):
    """A JSONL file and its image folder.

    Args:
        images: folder that `image` and `mask` of the records start from.
        annotations: the JSONL file.
        use: "expressions": samples are a text and the mask and box of what it means; of a conversation every
            question whose answer has `<mask>` is one, with as many of the record's masks. "conversations":
            samples are whole conversations in words, without any masks.
        train: samples carry what is learned, and unusable records are left out and counted; otherwise
            they are an error, as evaluation must not lose any.
        check_images: the images must be there; targets alone need none where records state `height`, `width`.

    Fields of a record: `image`; `text` or `conversations`; `masks`, a list of COCO segmentations, or `mask`,
    an image file in which all but 0 belongs to the object; `bbox`: x, y, width, height in pixels (else the
    box around the mask); `sentence`: whether the text is a whole sentence; `height`, `width` (else those of
    the image file). Raises DataError naming the line if the file is unusable.
    """

    _names: Strings
    _texts: Strings
    _turns: Strings
    _files: Strings

    def __init__(
        self,
        images: str | Path,
        annotations: str | Path,
        *,
        use: str = "expressions",
        train: bool = False,
        check_images: bool = True,
    ) -> None:
        if use not in USES:
            raise DataError(f"`use` is one of {', '.join(USES)}, not {use!r}.")
        self.images = require(images, "images", folder=True)
        path = require(annotations, "annotations")
        self.use, self.train = use, train
        self.problems = Problems(str(path), quiet=True)
        options = {"images": str(self.images), "use": use, "train": train}
        self._index = cached(path, options, lambda: Reader(path, self.images, use, train).read())
        self.problems.restore(self._index.meta["problems"])
        self.provides = frozenset(self._index.meta["provides"])
        self._attach()
        if check_images:
            require_images(self.images, self._names)

    def _attach(self) -> None:
        """Views of the index that read texts and segmentations."""
        for name in TEXTS:
            setattr(self, f"_{name}", Strings.of(self._index[f"{name}.ends"], self._index[f"{name}.bytes"]))
        self._segmentations = Segmentations.of(self._index)

    def __getstate__(self) -> dict[str, Any]:
        attached = {"_segmentations", *(f"_{name}" for name in TEXTS)}
        return {k: v for k, v in self.__dict__.items() if k not in attached}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._attach()

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, i: int) -> Sample:
        size = self._size(i)
        sample: Sample = {"image": self._picture(self._names[i], size), "text": self._texts[i]}
        if "sentence" in self.provides:
            sample["sentence"] = bool(self._index["sentence"][i])
        if not self.train:
            return sample
        if self.use == "conversations":
            sample["conversation"] = json.loads(self._turns[i])
        if "masks" in self.provides:
            sample["masks"] = tv_tensors.Mask(decode_masks([self._rle(i)], size))
        if "boxes" in self.provides:
            sample["boxes"] = tv_tensors.BoundingBoxes(
                self._box(i), format=tv_tensors.BoundingBoxFormat.XYXY, canvas_size=size
            )
        return sample

    def said(self, i: int) -> list[str]:
        return json.loads(self._turns[i]) if self.use == "conversations" else [self._texts[i]]

    def target(self, i: int) -> Target:
        turns = json.loads(self._turns[i])
        return Target(
            id=i,
            size=self._size(i),
            image=str(self._file(self._names[i])),
            image_id=self._names[i],
            boxes=self._box(i) if "boxes" in self.provides else None,
            masks=[self._rle(i)] if "masks" in self.provides else None,
            answers=turns[1:2] or None,
            text=self._texts[i],
            sentence=bool(self._index["sentence"][i]) if "sentence" in self.provides else None,
        )

    def line(self, i: int) -> int:
        """The line of the file that sample `i` comes from, from 1."""
        return int(self._index["lines"][i])

    def portrait(self) -> Tensor:
        sizes = self._index["sizes"]
        return torch.from_numpy(sizes[:, 1] < sizes[:, 0])

    def _size(self, i: int) -> tuple[int, int]:
        height, width = self._index["sizes"][i].tolist()
        return height, width

    def _rle(self, i: int) -> RLE:
        """All of the sample's masks as one."""
        size = self._size(i)
        if name := self._files[i]:
            return self._seen(self._mask_file(name, size), i)
        first, last = self._index["starts"][i : i + 2].tolist()
        found = [self._segmentations.rle(k, size) for k in range(first, last)]
        masks = decode_masks([rle for rle in found if rle], size)
        if first == last:  # the text means nothing in the image
            return empty_rle(size)
        return self._seen(masks.any(0), i)

    def _seen(self, mask: Tensor, i: int) -> RLE:
        """A mask `[H, W]` of sample `i`; one without a pixel is nothing to learn from."""
        if not mask.any():
            where = f"line {self.line(i)}"
            if self.train:
                raise DataError(f"{where}: its mask has no pixel; correct it, or leave the record out.")
            self.problems.report_once("empty mask", where, effect=DOUBTFUL)
        return encode_mask(mask)

    def _mask_file(self, name: str, size: tuple[int, int]) -> Tensor:
        """The pixels of a mask file that are not 0. DataError if it is not a map or of another size."""
        path = self.images / name
        labels = read_label_map(path)
        if tuple(labels.shape) != size:
            raise DataError(
                f"{path}: the mask is {tuple(labels.shape)} (height, width), its image {size}; save "
                "both in one size."
            )
        if (found := len(labels.unique())) > 2:
            kind = "object mask with more than two numbers, of which all but 0 are the object"
            self.problems.report_once(kind, f"{name} has {found}", effect=DOUBTFUL)
        return labels != 0

    def _box(self, i: int) -> torch.Tensor:
        """float32 [1, 4], xyxy: the record's, or around its mask (zeros if that is empty)."""
        box = torch.from_numpy(self._index["boxes"][i].astype(np.float32))
        if torch.isnan(box).any():
            rows, columns = torch.nonzero(decode_masks([self._rle(i)], self._size(i))[0], as_tuple=True)
            box = torch.zeros(4)
            if len(rows):
                corners = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
                box = torch.stack(corners).float()
        return box[None]
