"""What all scorers share: they take one example after the other, then give values, resamples and tables.

A resample is a weight per image: `weights` float64 `[R, n]` for R resamples of n images. `S` numbers that
sum up over images stand for an image, so that all resamples are one matrix product.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from ufo.data.datasets.segmentations import RLE, Segmentations, encode_mask
from ufo.data.errors import DataError
from ufo.data.pictures import read_label_map
from ufo.kinds import Kind, Referred
from ufo.score.convention import Convention
from ufo.score.predictions import Answer
from ufo.score.predictions.answers import picture
from ufo.score.truth import Example, Truth
from ufo.types import Target

SMALL, MEDIUM = 32**2, 96**2
"""Areas in pixels at which COCO's sizes end."""
Rows = dict[str, dict[str, float]]
Reads = Literal["boxes", "masks", "maps", "texts", "records"]


@dataclass(frozen=True)
class Rules:
    """How predictions are read."""

    folder: Path  # that names of mask files start from
    kind: Kind  # of the task's results
    needs: frozenset[str] = frozenset()  # annotations that the task needs
    convention: Convention | None = None
    min_score: float = 0.0  # of objects, for scorers with a `threshold`


class Scorer(ABC):
    """The scores of one `task`, or of all tasks of one `kind` that no other scorer names, as with metrics."""

    task: ClassVar[str] = ""
    kind: ClassVar[Kind | None] = None
    reads: ClassVar[Reads]  # what predictions are
    headline: ClassVar[str]
    threshold: ClassVar[bool] = False  # objects below a least score are left out

    @classmethod
    def asks(cls, kind: Kind, needs: frozenset[str]) -> bool:
        """Whether examples are expressions or questions about images, and not whole images."""
        return isinstance(kind, Referred)

    def __init__(self, truth: Truth, rules: Rules) -> None:
        self.truth, self.rules = truth, rules
        self.problems: Counter[str] = Counter()  # what was wrong with predictions, each counted as a miss
        self.below = 0  # objects left out, as they score less than the least score
        images = dict.fromkeys(example.image for example in truth.examples)
        self.rows = {image: row for row, image in enumerate(images)}

    @abstractmethod
    def add(self, example: Example, answers: Sequence[Answer]) -> None:
        """Score the answers about one example; none: it is missed. Raises DataError."""

    @abstractmethod
    def values(self) -> dict[str, float]:
        """The metrics of all examples, NaN where they do not define one."""

    @abstractmethod
    def resampled(self, weights: Tensor) -> dict[str, Tensor]:
        """The metrics of each resample: float64 `[R]`."""

    def certainty(self) -> Tensor | None:
        """`calibration_sums` of each image, float64 `[n, BINS, 4]`; None where answers state no scores."""
        return None

    @abstractmethod
    def tables(self) -> dict[str, Rows]:
        """Further tables by what their rows are ("class", "size"): row -> column -> value."""

    def target(self, example: Example) -> Target:
        """What a data set would give of an example; masks are encoded only where the task needs them."""
        corners = [[x, y, x + w, y + h] for x, y, w, h in example.boxes]
        return Target(
            0,
            example.size or (0, 0),
            image_id=example.image,
            boxes=torch.tensor(corners, dtype=torch.float32).reshape(-1, 4),
            labels=torch.tensor(example.labels, dtype=torch.int64),
            iscrowd=torch.tensor(example.crowd, dtype=torch.bool),
            area=torch.tensor(example.areas, dtype=torch.float32),
            masks=list(example.masks()) if "masks" in self.rules.needs else None,
            text=example.text,
            sentence=example.sentence,
        )

    # --- what answers hold

    def refuse_several(self, example: Example, answers: Sequence[Answer]) -> None:
        """Raises DataError for a second answer about an example of a task that gives one."""
        if len(answers) > 1:
            raise DataError(
                f"{answers[1].where} is another answer about {example}, as {answers[0].where}; keep one."
            )

    def boxes(self, example: Example, answers: Iterable[Answer], *, corners: bool) -> np.ndarray:
        """All boxes in pixels, `[N, 4]`: corners, or COCO's own. Counts those that are inside out.

        Raises DataError for a record that says no boxes: of misspelt fields all would silently be misses.
        """
        answers = list(answers)
        without = next((answer for answer in answers if not answer.boxed), None)
        if without is not None:
            raise DataError(
                f"{without.where} has no box of each of its objects, which this task needs; add `bbox` or "
                "`boxes` (an empty list where it found nothing)."
            )
        raw = np.concatenate([np.zeros((0, 4)), *(answer.boxes for answer in answers)])
        if not len(raw):
            return raw
        assert self.rules.convention is not None
        found = self.rules.convention.xyxy(raw, example.size)
        inverted = int((found[:, 2:] < found[:, :2]).any(1).sum())
        if inverted:
            self.problems["box whose right or lower side lies before the other"] += inverted
        return found if corners else self.rules.convention.xywh(raw, example.size)

    def masks(self, example: Example, answers: Iterable[Answer]) -> list[RLE]:
        """All masks. Raises DataError if one cannot be used."""
        without = next((a for a in answers if a.masks is None and not a.nothing and not a.broken), None)
        if without is not None:
            raise DataError(
                f"{without.where} has no mask, which this task needs; add `segmentation` or `mask`."
            )
        return [self._mask(mask, example, a.where) for a in answers for mask in a.masks or []]

    def _mask(self, mask: Any, example: Example, where: str) -> RLE:
        size = example.size
        if size is None:
            raise DataError(
                f"{self.truth.path}: {example} has no `height` and `width`, which masks need; add them."
            )
        if isinstance(mask, (str, Path)):
            path = picture(self.rules.folder, str(mask))
            pixels = read_label_map(path)
            if tuple(pixels.shape) != size:
                raise DataError(
                    f"{path} is {tuple(pixels.shape)} (height, width), its image {size}; write masks "
                    "at the size of "
                    "the original image."
                )
            return encode_mask(pixels)
        found = Segmentations()
        if problem := found.append(mask, size):
            raise DataError(
                f"{where}: its mask cannot be used: {problem}; the image is {size} (height, width)."
            )
        rle = found.rle(0, size)
        assert rle is not None
        return rle

    def said_nothing(self, answers: Sequence[Answer]) -> None:
        """Count an answer without what was asked for, where a text is broken or says nothing at all."""
        for answer in answers:
            if answer.broken:
                self.problems["answer not in its format"] += 1
            elif not answer.count:
                self.problems["answer without any object"] += 1


class SumScorer(Scorer):
    """A task whose metrics follow from sums over images."""

    def __init__(self, truth: Truth, rules: Rules) -> None:
        super().__init__(truth, rules)
        self._sums: dict[int, Tensor] = {}
        self._groups: dict[str, dict[str, Tensor]] = {}

    @abstractmethod
    def of_sums(self, sums: Tensor) -> dict[str, Tensor]:
        """The metrics of summed numbers `[..., S]`: `[...]` each."""

    def count(self, example: Example, sums: Tensor, groups: Mapping[str, str]) -> None:
        """Add the numbers `[S]` of an example, which is in one row of each of the tables `groups`."""
        row = self.rows[example.image]
        self._sums[row] = self._sums[row] + sums if row in self._sums else sums
        for table, name in groups.items():
            rows = self._groups.setdefault(table, {})
            old, number = rows.get(name), torch.ones(1, dtype=torch.float64)
            new = torch.cat([sums, number])
            rows[name] = new if old is None else old + new

    def stacked(self) -> Tensor:
        """The numbers of all images, float64 `[n, S]`."""
        return torch.stack([self._sums[row] for row in range(len(self.rows))]).double()

    def values(self) -> dict[str, float]:
        return {name: float(value) for name, value in self.of_sums(self.stacked().sum(0)).items()}

    def resampled(self, weights: Tensor) -> dict[str, Tensor]:
        return self.of_sums(weights @ self.stacked())

    def tables(self) -> dict[str, Rows]:
        found: dict[str, Rows] = {}
        for table, rows in self._groups.items():
            if len(rows) > 1:
                found[table] = {
                    name: {"number": float(sums[-1])}
                    | {k: float(v) for k, v in self.of_sums(sums[:-1]).items()}
                    for name, sums in sorted(rows.items(), key=lambda row: -float(row[1][-1]))
                }
        return found


def kind_of_object(example: Example, truth: Truth) -> dict[str, str]:
    """The rows that an expression's object is counted in: its class and its size."""
    groups = {}
    if example.labels and 0 <= example.labels[0] < len(truth.classes):
        groups["class"] = truth.classes[example.labels[0]]
    if example.areas:
        area = sum(example.areas)
        groups["size"] = "small" if area < SMALL else "medium" if area < MEDIUM else "large"
    return groups
