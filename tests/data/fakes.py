"""A small data set in memory, and sources of it, for the tests of the mixture."""

from __future__ import annotations

import torch
from torchvision import tv_tensors

from ufo.data.errors import DataError
from ufo.data.problems import Problems
from ufo.data.source import Source
from ufo.types import Sample, Target


class FakeData:
    """Image `i` is 8 x 8 and has the value `base + i`; those in `corrupt` cannot be read."""

    classes = ("one", "two")
    provides = frozenset({"boxes", "labels", "caption"})

    def __init__(self, size: int, base: int = 0, corrupt: tuple[int, ...] = ()) -> None:
        self.size, self.base, self.corrupt = size, base, corrupt
        self.problems = Problems("fake", quiet=True)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, i: int) -> Sample:
        if i in self.corrupt:
            raise DataError(f"image {i}.png is truncated")
        boxes = torch.tensor([[0.0, 0, 4, 4]]).repeat(i % 3, 1)
        return {
            "image": tv_tensors.Image(torch.full((3, 8, 8), self.base + i, dtype=torch.uint8)),
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(8, 8)),
            "labels": torch.zeros(i % 3, dtype=torch.int64),
            "text": f"text {i}",
        }

    def target(self, i: int) -> Target:
        return Target(id=i, size=(8, 8), boxes=torch.full((2, 4), float(i)), text=f"text {i}")

    def portrait(self) -> torch.Tensor:
        return torch.arange(self.size) % 3 == 0


def noise(sample: Sample) -> Sample:
    """An augmentation: writes a random number into the second channel."""
    image = sample["image"].clone()
    image[1] = int(torch.rand(()) * 256)
    return {**sample, "image": tv_tensors.Image(image)}


def sources() -> list[Source]:
    """Two sources, the first one grouped by orientation."""
    return [
        Source(
            name="a/detection",
            task="detection",
            train=lambda: FakeData(11),
            val=lambda: FakeData(5),
            train_transform=noise,
            weight=3,
            batch_size=2,
            group_by_orientation=True,
        ),
        Source(
            name="b/caption",
            task="caption",
            train=lambda: FakeData(7, base=100),
            val=lambda: FakeData(3, base=100),
            train_transform=noise,
            batch_size=3,
        ),
    ]
