"""Several data sets as one: every sample equally often, whichever data set it is of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ufo.data.datasets.base import ImageDataset
from ufo.data.errors import DataError
from ufo.data.problems import JoinedProblems
from ufo.ops.nearest import few
from ufo.types import Sample, Target

SHOWN = 3  # names of each in a message


class JoinedDataset(ImageDataset):
    """The samples of all `parts` one after the other; what they all provide is provided.

    Args:
        parts: by name, each with a factory under `split`, as the files in conf/dataset describe data sets.
        split: "train" or "val", the factory to use.

    Raises DataError if there is no part or their class names differ.
    """

    def __init__(self, parts: Mapping[str, Mapping[str, Any]], split: str) -> None:
        self.parts: list[ImageDataset] = [part[split]() for part in parts.values() if part]
        if not self.parts:
            raise DataError("A joined data set needs at least one of its `parts`.")
        if len({part.classes for part in self.parts}) > 1:
            shown = "; ".join(few(part.classes, SHOWN) for part in self.parts)
            raise DataError(
                f"The data sets {', '.join(parts)} have different classes and can't be joined ({shown}); "
                "give all the same `classes` in one order."
            )
        self.classes = self.parts[0].classes
        self.wordings = getattr(self.parts[0], "wordings", ())
        self.train = any(getattr(part, "train", False) for part in self.parts)
        self.provides = frozenset.intersection(*(part.provides for part in self.parts))
        self.problems = JoinedProblems(", ".join(parts), [part.problems for part in self.parts])
        if all(hasattr(part, "label_sets") for part in self.parts):  # else nobody may ask for them
            self.label_sets = self._label_sets
        self._ends = np.cumsum([len(part) for part in self.parts])

    def serve(self, needs: frozenset[str], *, pasting: bool = False) -> None:
        for part in self.parts:
            part.serve(needs, pasting=pasting)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, i: int) -> Sample:
        part, j = self._place(i)
        return part[j]

    def said(self, i: int) -> list[str]:
        part, j = self._place(i)
        return part.said(j)

    def target(self, i: int) -> Target:
        part, j = self._place(i)
        return replace(part.target(j), id=i)

    def portrait(self) -> Tensor:
        return torch.cat([part.portrait() for part in self.parts])

    def _label_sets(self) -> tuple[np.ndarray, np.ndarray]:
        """The classes in each sample: int64 starts [len + 1], labels; as those of the parts."""
        sets = [part.label_sets() for part in self.parts]  # type: ignore[attr-defined]  # they all have it
        before = np.cumsum([0, *(len(labels) for _, labels in sets)])
        starts = [starts[:-1] + first for (starts, _), first in zip(sets, before, strict=False)]
        return np.concatenate([*starts, before[-1:]]), np.concatenate([labels for _, labels in sets])

    def _place(self, i: int) -> tuple[ImageDataset, int]:
        if not 0 <= i < len(self):
            raise IndexError(i)
        part = int(np.searchsorted(self._ends, i, side="right"))
        return self.parts[part], i - (int(self._ends[part - 1]) if part else 0)
