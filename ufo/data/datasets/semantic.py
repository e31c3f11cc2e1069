"""Semantic segmentation from an image folder and a folder of label PNGs.

See docs/published_system.md#semantic-maps.
Semantic maps are uint8 [H, W]: class index, or 255 where neither the loss nor the metric looks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision import tv_tensors

from ufo.data.datasets.base import ImageDataset, Strings, require
from ufo.data.datasets.naming import read_names, read_split
from ufo.data.errors import DataError
from ufo.data.image_files import IMAGE_SUFFIXES
from ufo.data.pictures import LOSSY, MAP_SUFFIXES, image_sizes, map_size, read_label_map
from ufo.data.problems import DOUBTFUL, Problems
from ufo.types import IGNORE, Sample, Target

NOTHING = "label map without a pixel of any class, from which nothing is learned"


class SemanticDataset(ImageDataset):
    """Images and label maps with equal relative paths up to their suffixes, sorted by path.

    An image without a map is left out of training and an error in evaluation; maps without an image are
    counted. Of an image's orientation by its EXIF data and as stored, the one that fits the map counts.

    Args:
        images: folder of the images, searched with its sub-folders.
        labels: folder of the label maps.
        classes: class names in label order, or a text file with one name per line.
        train: samples carry `semantic`; otherwise they are images alone.
        reduce_zero_label: 0 in the files means "no class": 0 becomes 255 and k becomes k - 1.
        image_suffix: end of the image files' names, in any case; by default any suffix of a picture.
        label_suffix: what stands in its place in the label files' names; by default any suffix of a picture.
        split: text file with the images to use, one name without suffix per line; by default all.
        numbers: the number of each class in the files, in label order; by default 0, 1, 2, ... (or 1, 2,
            3, ... with `reduce_zero_label`).
        unused: other numbers that the files may have and that are ignored like 255.
        ignore: names of classes that are neither trained nor scored: their pixels become 255.

    Raises DataError if a folder, the images or one of the label files is missing.
    """

    provides = frozenset({"semantic"})
    images_left_out: Strings  # files that are counted among the problems, below `images`
    maps_left_out: Strings  # and below `labels`

    def __init__(
        self,
        images: str | Path,
        labels: str | Path,
        *,
        classes: Sequence[str] | str | Path,
        train: bool = False,
        reduce_zero_label: bool = False,
        image_suffix: str | None = None,
        label_suffix: str | None = None,
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
        self.image_suffix, self.label_suffix = image_suffix, label_suffix
        self.problems = Problems(str(self.labels), quiet=True)
        images_of, maps_of = self._listed()
        names = read_split(require(split, "split"), images_of) if split is not None else sorted(images_of)
        if not names:
            what = f"*{image_suffix}" if image_suffix else "picture"
            raise DataError(f"There is no {what} in {self.images}: change `images` or `image_suffix`.")
        names = self._with_map(names, maps_of)
        if split is None:
            alone = [maps_of[name] for name in sorted(maps_of.keys() - images_of.keys())]
            for path in alone:
                self.problems.report("label map without an image", path)
            unmapped = (images_of[name] for name in images_of.keys() - {*names})
            self.images_left_out = Strings([*self.images_left_out, *unmapped])
            self.maps_left_out = Strings([*self.maps_left_out, *alone])
        self._names = Strings(names)
        self._images = Strings(images_of.get(name, name + (image_suffix or ".jpg")) for name in names)
        self._labels = Strings(maps_of[name] for name in names)
        lossy = [maps_of[name] for name in names if Path(maps_of[name]).suffix.lower() in LOSSY]
        self.problems.report(
            "label map in a lossy format", *lossy[:1] or [""], effect=DOUBTFUL, number=len(lossy)
        )
        self._portrait: Tensor | None = None

    def _listed(self) -> tuple[dict[str, str], dict[str, str]]:
        """Images and label maps by their names without suffix, relative to their folders."""
        together = self.images.resolve() == self.labels.resolve()
        kept = MAP_SUFFIXES[:1] if together else (*MAP_SUFFIXES, *sorted(IMAGE_SUFFIXES - {*MAP_SUFFIXES}))
        maps, more_maps = self._by_name(
            self.labels, (self.label_suffix,) if self.label_suffix else kept, "label map"
        )
        rest = IMAGE_SUFFIXES - {*kept} if together and not self.label_suffix else IMAGE_SUFFIXES
        found, more = self._by_name(
            self.images, (self.image_suffix,) if self.image_suffix else sorted(rest), "image"
        )
        self.images_left_out, self.maps_left_out = Strings(more), Strings(more_maps)
        return found, maps

    def _by_name(self, folder: Path, suffixes: Sequence[str], what: str) -> tuple[dict[str, str], list[str]]:
        """The files with one of some suffixes, in any case; of several of a name that of the first suffix.

        Also those that another one of the name stands for.
        """
        found: dict[str, str] = {}
        lost: list[str] = []
        rank = {suffix.lower(): number for number, suffix in enumerate(suffixes)}
        ranked: dict[str, int] = {}
        for path in sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()):
            end = next((s for s in rank if path.lower().endswith(s)), None)
            if end is None or path.rsplit("/", 1)[-1].startswith("."):
                continue
            name = path[: len(path) - len(end)]
            if name in found:
                better = rank[end] < ranked[name]
                lost.append(found[name] if better else path)
                self.problems.report(f"{what} of the same name as another but for the suffix", lost[-1])
                if not better:
                    continue
            found[name], ranked[name] = path, rank[end]
        return found, lost

    def _with_map(self, names: list[str], maps_of: dict[str, str]) -> list[str]:
        """The images that have a map. DataError if none has one or, in evaluation, one has not."""
        missing = [name for name in names if name not in maps_of]
        if missing and (not self.train or len(missing) == len(names)):
            raise DataError(
                f"{len(missing)} of {len(names)} images have no label map, the first is "
                f"{self.labels / (missing[0] + (self.label_suffix or '.png'))}: add it or change `labels` or "
                "`label_suffix`."
            )
        for name in missing:
            self.problems.report("image without a label map", name)
        return [name for name in names if name in maps_of]

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, i: int) -> Sample:
        semantic = self._semantic(i) if self.train else None
        size = map_size(self._label(i)) if semantic is None else tuple(semantic.shape)
        sizes = image_sizes(self._image(i))
        if size not in sizes:
            raise DataError(
                f"{self._label(i)}: the label map is {size} (height, width), its image {sizes[0]}; save "
                "both in one size."
            )
        image = self._picture(self._images[i], size)
        return (
            {"image": image} if semantic is None else {"image": image, "semantic": tv_tensors.Mask(semantic)}
        )

    def target(self, i: int) -> Target:
        semantic = self._semantic(i)
        height, width = semantic.shape
        return Target(
            id=i,
            size=(height, width),
            image=str(self._image(i)),
            image_id=self._names[i],
            semantic=semantic,
        )

    def files(self) -> list[str]:
        return [self._image(i).relative_to(self.images).as_posix() for i in range(len(self))]

    def label_files(self) -> list[str]:
        """The label maps of the images, below `labels`."""
        return [self._label(i).relative_to(self.labels).as_posix() for i in range(len(self))]

    def portrait(self) -> Tensor:
        if self._portrait is None:
            self._portrait = torch.tensor([self._tall(i) for i in range(len(self))], dtype=torch.bool)
        return self._portrait

    def _tall(self, i: int) -> bool:
        try:
            height, width = map_size(self._label(i))
        except DataError:  # the sample itself will say so
            return False
        return width < height

    def _image(self, i: int) -> Path:
        return self.images / self._images[i]

    def _label(self, i: int) -> Path:
        return self.labels / self._labels[i]

    def _semantic(self, i: int) -> Tensor:
        """uint8 [H, W] with class indices and IGNORE."""
        labels = read_label_map(self._label(i))
        # the table's last place is not a number of any class
        classes = self._table[labels.clamp(-1, len(self._table) - 1)]
        if (classes < 0).any():
            self.problems.report_once("label number without a class, ignored", str(self._label(i)))
            classes = classes.masked_fill(classes < 0, IGNORE)
        if (classes == IGNORE).all():
            self.problems.report_once(NOTHING, str(self._label(i)), effect=DOUBTFUL)
        return classes.to(torch.uint8)

    def any_pixel(self) -> bool:
        """Whether any map has a pixel of a class; reads maps, spread over the data, until one has."""
        half = len(self) // 2
        for i in dict.fromkeys(k for j in range(half + 1) for k in (j, half + j) if k < len(self)):
            with contextlib.suppress(DataError):  # the sample itself will say so
                if (self._semantic(i) != IGNORE).any():
                    return True
        return False


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
