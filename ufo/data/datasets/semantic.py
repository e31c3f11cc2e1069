"""Semantic segmentation from an image folder and a folder of label PNGs (datasets.md, section 3).

Semantic maps are uint8 [H, W]: class index, or 255 where neither the loss nor the metric looks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import BoolTensor, Tensor
from torchvision import tv_tensors

from ufo.data.datasets.base import (
    ImageDataset,
    Problems,
    Strings,
    image_size,
    read_image,
    read_label_map,
    require,
)
from ufo.data.errors import DataError
from ufo.types import IGNORE, Sample, Target


class SemanticDataset(ImageDataset):
    """Images and label maps with equal relative paths up to their suffixes, sorted by path.

    Args:
        images: folder of the images, searched with its sub-folders.
        labels: folder of the label maps.
        classes: class names in label order, or a text file with one name per line.
        train: samples carry `semantic`; otherwise they are images alone.
        reduce_zero_label: 0 in the files means "no class": 0 becomes 255 and k becomes k - 1.
        image_suffix: end of the image files' names.
        label_suffix: what stands in its place in the label files' names.

    Raises DataError if a folder, the images or one of the label files is missing.
    """

    tasks = frozenset({"semantic_segmentation"})

    def __init__(
        self,
        images: str | Path,
        labels: str | Path,
        *,
        classes: Sequence[str] | str | Path,
        train: bool = False,
        reduce_zero_label: bool = False,
        image_suffix: str = ".jpg",
        label_suffix: str = ".png",
    ) -> None:
        self.images = require(images, "images", folder=True)
        self.labels = require(labels, "labels", folder=True)
        self.classes = read_classes(classes)
        self.train = train
        self.reduce_zero_label = reduce_zero_label
        self.label_suffix = label_suffix
        self.problems = Problems(str(self.labels))
        found = (p.relative_to(self.images).as_posix() for p in self.images.rglob(f"*{image_suffix}"))
        names = sorted(name[: len(name) - len(image_suffix)] for name in found)
        if not names:
            raise DataError(
                f"There is no *{image_suffix} in {self.images}: change `images` or `image_suffix`."
            )
        missing = [name for name in names if not (self.labels / (name + label_suffix)).is_file()]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(names)} images have no label map, the first is "
                f"{self.labels / (missing[0] + label_suffix)}: add it or change `labels` or "
                "`label_suffix`."
            )
        self.image_suffix = image_suffix
        self._names = Strings(names)
        self._portrait: BoolTensor | None = None

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, i: int) -> Sample:
        image = read_image(self._image(i))
        if not self.train:
            return {"image": image}
        semantic = self._semantic(i)
        if semantic.shape != image.shape[1:]:
            raise DataError(
                f"{self._label(i)}: the label map is {tuple(semantic.shape)} (height, width), its "
                f"image {tuple(image.shape[1:])}."
            )
        return {"image": image, "semantic": tv_tensors.Mask(semantic)}

    def target(self, i: int) -> Target:
        semantic = self._semantic(i)
        return Target(
            id=i,
            size=tuple(semantic.shape),
            image=str(self._image(i)),
            image_id=self._names[i],
            semantic=semantic,
        )

    def portrait(self) -> BoolTensor:
        if self._portrait is None:
            sizes = torch.tensor([image_size(self._image(i)) for i in range(len(self))])
            self._portrait = sizes[:, 1] < sizes[:, 0]
        return self._portrait

    def _image(self, i: int) -> Path:
        return self.images / (self._names[i] + self.image_suffix)

    def _label(self, i: int) -> Path:
        return self.labels / (self._names[i] + self.label_suffix)

    def _semantic(self, i: int) -> Tensor:
        """uint8 [H, W] with class indices and IGNORE."""
        labels = read_label_map(self._label(i))
        if self.reduce_zero_label:
            # 255 in a file is "ignore" before and after.
            labels = torch.where((labels == 0) | (labels == IGNORE), IGNORE, labels - 1)
        unknown = ((labels >= len(self.classes)) | (labels < 0)) & (labels != IGNORE)
        if unknown.any():
            self.problems.report("label number without a class, ignored", str(self._label(i)))
            labels = labels.masked_fill(unknown, IGNORE)
        return labels.to(torch.uint8)


def read_classes(classes: Sequence[str] | str | Path) -> tuple[str, ...]:
    """Class names from a sequence, or from a UTF-8 text file with one name per line."""
    if isinstance(classes, (str, Path)):
        path = require(classes, "classes")
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8 text at byte {error.start}.") from error
        classes = [line.strip() for line in lines if line.strip()]
    names = tuple(str(name) for name in classes)
    if not names or len(names) > IGNORE or len(set(names)) < len(names):
        raise DataError(f"Semantic maps need 1 to {IGNORE} different class names, not {len(names)}.")
    return names
