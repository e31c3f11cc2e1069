"""Expressions that mean nothing in their image: those of other images, a share of a source's samples.

gRefCOCO has such expressions written by people; other data sets get them by this rule: of some expressions
the one that shares the fewest content words with those of the image, so that it seldom fits by chance.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

from ufo.data.sampling import View
from ufo.types import Sample, Target

DRAWS = 0xD1FF  # key of the generator that draws expressions
TRIES = 20  # expressions that are looked at
_WORDS = "a an the of in on at to by with and or is are that this who which his her its their"
_PLACES = "left right front back top bottom middle far near next from behind side"
_FUNCTION_WORDS = frozenset(f"{_WORDS} {_PLACES}".split())


class WithAbsent(View):
    """A data set of expressions, and after its samples others that mean nothing.

    Args:
        data: a data set with `said` and `target`, such as RefCOCO.
        share: of all samples, those that mean nothing; above 0 and below 1.
        seed: which expressions are taken; they follow from it and the samples' numbers.

    Raises ValueError for a share out of range, or where expressions cannot be looked up.
    """

    def __init__(self, data: Any, share: float, seed: int = 0) -> None:
        if not 0 < share < 1:
            raise ValueError(f"absent is a share of the samples between 0 and 1, not {share}.")
        if "expression" not in data.provides or not hasattr(data, "image_rows"):
            raise ValueError(
                "absent asks with expressions of other images, which these data do not have; use it for "
                "sources in the RefCOCO format, or leave it out."
            )
        own = len(data)
        extra = round(own * share / (1 - share))
        super().__init__(data, np.concatenate([np.arange(own), np.arange(extra) * own // max(extra, 1)]))
        self.own, self.seed = own, seed
        self.rows = np.asarray(data.image_rows())  # the image of each sample, int64 [own]
        if len(np.unique(self.rows)) < 2:
            raise ValueError("absent asks with expressions of other images, and there is only one image.")
        self._by_image = np.argsort(self.rows, kind="stable")
        self._sorted = self.rows[self._by_image]

    def __getitem__(self, i: int) -> Sample:
        sample = super().__getitem__(i)
        if i < self.own:
            return sample
        changed: Sample = {**sample, "text": self.said(i)[0]}
        if "boxes" in sample:
            boxes = sample["boxes"]
            changed["boxes"] = tv_tensors.wrap(boxes.as_subclass(Tensor)[:0], like=boxes)
        if "masks" in sample:
            changed["masks"] = tv_tensors.Mask(sample["masks"].as_subclass(Tensor)[:0])
        return changed

    def target(self, i: int) -> Target:
        found = super().target(i)
        if i < self.own:
            return found
        return replace(
            found,
            id=i,
            text=self.said(i)[0],
            boxes=torch.zeros(0, 4),
            masks=None if found.masks is None else [],
            area=None if found.area is None else torch.zeros(0),
        )

    def said(self, i: int) -> list[str]:
        return super().said(i) if i < self.own else [self._foreign(i)]

    def _objects(self) -> np.ndarray:
        return np.concatenate([self.data.objects(), np.zeros(len(self) - self.own, np.int64)])

    def _foreign(self, i: int) -> str:
        """The expression of another image that sample `i` is asked with."""
        row = self.rows[self._number(i)]
        first, last = np.searchsorted(self._sorted, [row, row + 1])
        here = set().union(
            *(_content(text) for k in self._by_image[first:last] for text in self.data.said(k))
        )
        words = np.random.Philox(key=[self.seed, DRAWS], counter=[0, 0, 0, i]).random_raw(TRIES)
        drawn = [int(k) for k in words % np.uint64(self.own) if self.rows[k] != row]
        texts = [self.data.said(k)[0] for k in drawn or np.flatnonzero(self.rows != row)[:1].tolist()]
        return min(texts, key=lambda text: (len(_content(text) & here), not _content(text)))


def _content(text: str) -> set[str]:
    """The words of a text that say what is meant."""
    return set(text.lower().split()) - _FUNCTION_WORDS
