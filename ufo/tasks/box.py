"""What tasks share that answer with boxes: the bins of their numbers, and which box these mean.

A number of an answer is a bin. What else the model held for likely in its place tells where between the bins
the box lies (docs/trust.md#boxes-between-the-bins). Shapes: `K` boxes of one image, `Q` its answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ufo.tasks.base import Answers
from ufo.types import given


@dataclass(kw_only=True)
class BoxNumbers:
    """What a task adds whose answers say boxes in numbers.

    It is no task itself: a dataclass takes all that its first base has, and with it what that one inherits.

    Args:
        num_bins: bins per side of the image; a number is from 0 to `num_bins`.
        box: `said`, the box of the numbers in the answer, as published; or `expected`, each number being the
            mean of what was likely there.
    """

    calibrated_for: ClassVar[tuple[str, ...]] = ("score", "box")

    num_bins: int
    box: str = "said"  # one of BOXES

    @property
    def largest_bin(self) -> int:
        return self.num_bins

    def numbers_of(self, answers: Answers, rows: Tensor, which: Tensor, bins: Tensor) -> Tensor:
        """The numbers `[K, 4]` of the boxes `which [K]` of answers `rows [K]`, read as `bins [K, 4]`.

        A box whose tokens are not those that were read, as in a text that is not well-formed, stays as read.
        """
        if self.box == "said":
            return bins
        said, expected = (x[rows, which] for x in given(answers.numbers, "numbers of boxes")())
        return torch.where((said == bins).all(1, keepdim=True), expected, bins.float())
