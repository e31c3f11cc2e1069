"""Semantic segmentation from an image folder and a folder of label PNGs.

See docs/published_system.md#semantic-maps.
Semantic maps are uint8 [H, W]: class index, or 255 where neither the loss nor the metric looks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import BoolTensor, Tensor
from torchvision import tv_tensors

from ufo.data.datasets.base import ImageDataset, Strings, require
from ufo.data.datasets.naming import read_names, read_split
from ufo.data.errors import DataError
from ufo.data.pictures import image_size, read_image, read_label_map
from ufo.data.problems import Problems
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
        split: text file with the images to use, one name without suffix per line; by default all.
        numbers: the number of each class in the files, in label order; by default 0, 1, 2, ... (or 1, 2,
            3, ... with `reduce_zero_label`).
        unused: other numbers that the files may have and that are ignored like 255.
        ignore: names of classes that are neither trained nor scored: their pixels become 255.

    Raises DataError if a folder, the images or one of the label files is missing.
    """

    provides = frozenset({"semantic"})

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
        split: str | Path | None = None,
        numbers: Sequence[int] | None = None,
        unused: Sequence[int] = (),
        ignore: Sequence[str] = (),
    ) -> None:
        self.images = require(images, "images", folder=True)
        self.labels = require(labels, "labels", folder=True)
        named = read_classes(classes)
        if unknown := [name for name in ignore if name not in named]:
            raise DataError(f"`ignore` names {', '.join(unknown)}, which `classes` does not have.")
        self.classes = tuple(name for name in named if name not in ignore)
        if numbers is None:
            numbers = range(reduce_zero_label, reduce_zero_label + len(named))
        unused = [*unused, 0] if reduce_zero_label else unused
        self._table = label_table(named, self.classes, numbers, unused)
        self.train = train
        self.label_suffix = label_suffix
        self.problems = Problems(str(self.labels), quiet=True)
        if split is not None:
            names = read_split(require(split, "split"))
        else:
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

    def files(self) -> list[str]:
        return [self._image(i).relative_to(self.images).as_posix() for i in range(len(self))]

    def label_files(self) -> list[str]:
        """The label maps of the images, below `labels`."""
        return [self._label(i).relative_to(self.labels).as_posix() for i in range(len(self))]

    def portrait(self) -> BoolTensor:
        if self._portrait is None:
            self._portrait = torch.tensor([self._tall(i) for i in range(len(self))], dtype=torch.bool)
        return self._portrait

    def _tall(self, i: int) -> bool:
        try:
            height, width = image_size(self._image(i))
        except DataError:  # the sample itself will say so
            return False
        return width < height

    def _image(self, i: int) -> Path:
        return self.images / (self._names[i] + self.image_suffix)

    def _label(self, i: int) -> Path:
        return self.labels / (self._names[i] + self.label_suffix)

    def _semantic(self, i: int) -> Tensor:
        """uint8 [H, W] with class indices and IGNORE."""
        labels = read_label_map(self._label(i))
        # the table's last place is not a number of any class
        classes = self._table[labels.clamp(-1, len(self._table) - 1)]
        if (classes < 0).any():
            self.problems.report("label number without a class, ignored", str(self._label(i)))
            classes = classes.masked_fill(classes < 0, IGNORE)
        return classes.to(torch.uint8)


def label_table(
    named: Sequence[str], classes: Sequence[str], numbers: Sequence[int], unused: Sequence[int]
) -> Tensor:
    """Class by number in the files: int16 [65537] with IGNORE where it does not count, -1 if it has none.

    `classes` are those of `named` that count, `numbers` the numbers of `named`. Raises DataError if two
    classes have one number or one has none between 0 and 65535.
    """
    numbers = [int(number) for number in numbers]
    if len(numbers) != len(named) or len(set(numbers)) < len(numbers):
        raise DataError(f"`numbers` must be {len(named)} different numbers, one for each class.")
    if not all(0 <= number <= 65535 for number in [*numbers, *unused]):
        raise DataError("Numbers of label maps lie between 0 and 65535; change `numbers` or `unused`.")
    table = torch.full((65537,), -1, dtype=torch.int16)
    table[[IGNORE, *map(int, unused)]] = IGNORE
    label_of = {name: label for label, name in enumerate(classes)}
    for name, number in zip(named, numbers, strict=True):
        table[number] = label_of.get(name, IGNORE)
    return table


def read_classes(classes: Sequence[str] | str | Path) -> tuple[str, ...]:
    """Class names of semantic maps from a sequence, or from a UTF-8 text file with one name per line."""
    names = read_names(classes)
    if not 0 < len(names) <= IGNORE:
        raise DataError(f"Semantic maps need 1 to {IGNORE} different class names, not {len(names)}.")
    return names
