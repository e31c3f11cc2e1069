"""How often a source and its samples are drawn: caps, repeats of rare classes, shares by size.

All of it is decided before training from the data and fixed numbers, so the mixer draws and resumes as ever:
a view of a data set is a list of sample numbers, some of them more than once (docs/published_system.md#lvis).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ufo.types import Sample, Target

CAP = 0xCA9  # key of the generator that draws which samples a cap leaves


class View:
    """Some samples of a data set, by number; one may be there several times.

    Everything else (classes, problems, ...) is the data set's own.
    """

    def __init__(self, data: Any, numbers: np.ndarray) -> None:
        self.data, self.numbers = data, np.asarray(numbers, dtype=np.int64)
        if hasattr(data, "label_sets"):  # else it takes decoding, which nobody expects of it
            self.label_sets = self._label_sets
        if hasattr(data, "objects"):
            self.objects = self._objects
        if hasattr(data, "image_rows"):
            self.image_rows = self._image_rows

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, i: int) -> Sample:
        return self.data[self._number(i)]

    def target(self, i: int) -> Target:
        """Ground truth of sample `i`."""
        return self.data.target(self._number(i))

    def said(self, i: int) -> list[str]:
        """What sample `i` asks with."""
        return self.data.said(self._number(i))

    def portrait(self) -> Tensor:
        """bool [len]: width < height."""
        return self.data.portrait()[torch.from_numpy(self.numbers)]

    def _objects(self) -> np.ndarray:
        """How many objects each sample of this view means, int64 [len]."""
        return self.data.objects()[self.numbers]

    def _image_rows(self) -> np.ndarray:
        """The number of the image of each sample of this view, int64 [len]."""
        return self.data.image_rows()[self.numbers]

    def _label_sets(self) -> tuple[np.ndarray, np.ndarray]:
        """As `CocoDataset.label_sets`, for the samples of this view."""
        starts, labels = self.data.label_sets()
        first, last = starts[self.numbers], starts[self.numbers + 1]
        ends = np.concatenate([[0], np.cumsum(last - first)])
        places = np.arange(ends[-1]) + np.repeat(first - ends[:-1], last - first)
        return ends, labels[places]

    def _number(self, i: int) -> int:
        if not 0 <= i < len(self):
            raise IndexError(i)
        return int(self.numbers[i])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "data" not in self.__dict__:  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.data, name)


def capped(data: Any, most: int, seed: int = 0) -> Any:
    """At most `most` samples of a data set, drawn once by `seed`, in their own order.

    Raises ValueError for a cap below one.
    """
    if most < 1:
        raise ValueError(f"max_samples must be at least 1, not {most}.")
    if len(data) <= most:
        return data
    # raw words: what Generator.choice does with them may change between NumPy versions
    words = np.random.Philox(key=[seed % 2**64, CAP]).random_raw(len(data))
    return View(data, np.sort(np.argsort(words, kind="stable")[:most]))


def class_balanced(data: Any, threshold: float) -> Any:
    """A data set whose images of rare classes come several times in each pass (repeat-factor sampling).

    A class in a share f of the images has the factor max(1, sqrt(threshold / f)); an image comes as often
    as its rarest class says, rounded up, and once without any object. Raises ValueError for a threshold that
    is not a share.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"repeat_threshold is a share of the images above 0, up to 1, not {threshold}.")
    times = repeat_factors(*label_sets(data), len(data.classes), threshold)
    return View(data, np.repeat(np.arange(len(data)), np.ceil(times - 1e-9).astype(np.int64)))


def repeat_factors(starts: np.ndarray, labels: np.ndarray, classes: int, threshold: float) -> np.ndarray:
    """How often each image is drawn, not rounded: float64 [images].

    Image `i` holds objects of `labels[starts[i] : starts[i + 1]]`, each below `classes`.
    """
    images = len(starts) - 1
    owner = np.repeat(np.arange(images), np.diff(starts))
    pairs = np.unique(owner * classes + labels)  # an image counts once for a class
    count = np.bincount(pairs % classes, minlength=classes)
    share = np.maximum(count, 1) / max(images, 1)
    factor = np.maximum(1.0, np.sqrt(threshold / share))
    times = np.ones(images)
    np.maximum.at(times, pairs // classes, factor[pairs % classes])
    return times


def label_sets(data: Any) -> tuple[np.ndarray, np.ndarray]:
    """The classes of every sample as (starts [len + 1], labels); from the targets if the data cannot say."""
    if hasattr(data, "label_sets"):
        return data.label_sets()
    found = [data.target(i) for i in range(len(data))]
    labels = [np.zeros(0, np.int64) if t.labels is None else t.labels.numpy() for t in found]
    starts = np.concatenate([[0], np.cumsum([len(values) for values in labels])]).astype(np.int64)
    return starts, np.concatenate([*labels, np.zeros(0, np.int64)]).astype(np.int64)


def weights_by_size(
    weights: Sequence[float], sizes: Sequence[int], groups: Sequence[str], temperature: float
) -> list[float]:
    """Weights of sources such that inside a group each is drawn by size ** (1 / temperature).

    Temperature 1 is proportional to size, a large one makes all equal. A group keeps its share, the sum
    of its weights; inside a group weights stay factors. Raises ValueError for a temperature not above 0.

    Args:
        weights, sizes, groups: of each source: its weight, its training samples, its group's name.
    """
    if not temperature > 0:
        raise ValueError(f"the temperature of a mixture is above 0, not {temperature}.")
    # logarithms: sizes ** (1 / temperature) may be beyond any float
    logs = [
        math.log(weight) + math.log(max(size, 1)) / temperature if weight > 0 else -math.inf
        for weight, size in zip(weights, sizes, strict=True)
    ]
    result = [0.0] * len(weights)
    for group in set(groups):
        members = [i for i, name in enumerate(groups) if name == group and weights[i] > 0]
        if not members:
            continue
        largest = max(logs[i] for i in members)
        parts = {i: math.exp(logs[i] - largest) for i in members}
        share = sum(weights[i] for i in members)
        for i, part in parts.items():
            result[i] = share * part / sum(parts.values())
    return result
