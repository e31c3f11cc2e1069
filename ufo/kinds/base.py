"""What a kind of result knows in one place: records, summary, drawing, tables, quality, trivial answer.

A kind has no state but its settings; its methods take one `Prediction` on the CPU and, where truth is needed,
its `Target`. Shapes: `N` objects, `H W` pixels of the original image; boxes are xyxy in its pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ufo.kinds.compared import GOOD, WEAK, Compared
from ufo.kinds.found import Found
from ufo.kinds.marks import Marks, annotated
from ufo.types import Prediction, Target

ANSWER = "answer"
"""What stands for a class where an answer has none."""


@dataclass(frozen=True)
class ImageInfo:
    """What the records of one image say about it."""

    id: int | str
    file_name: str
    size: tuple[int, int]  # original (height, width)

    @property
    def head(self) -> dict[str, Any]:
        """How each of its records begins."""
        return {"image_id": self.id, "file_name": self.file_name}


@dataclass(frozen=True)
class Usual:
    """What the training data of a source usually say, whatever the image."""

    box: Tensor | None  # float32 [1, 4], the mean box, xyxy in units of the image
    label: int  # the most frequent class
    text: str  # the most frequent text that would be right

    def pixels(self, size: tuple[int, int]) -> Tensor:
        """The box `[1, 4]` in pixels of an image of `size` (height, width); zeros where there is none."""
        box = torch.zeros(1, 4) if self.box is None else self.box
        height, width = size
        return box * torch.tensor([width, height, width, height])


@dataclass(frozen=True)
class Shown:
    """What a drawing of a prediction shows of it."""

    classes: tuple[str, ...]  # names of the labels
    text: str = ""  # what was asked
    min_score: float = 0.0  # objects below it are only counted
    max_objects: int = 0  # and those beyond this number
    target: Target | None = None  # what it is compared with

    @property
    def notes(self) -> list[str]:
        """The first lines below the picture."""
        return [self.text] if self.text else []


@dataclass(frozen=True, kw_only=True)
class Kind(ABC):
    """One kind of result; a task may refine it by its settings or by a subclass.

    Args:
        masks: answers hold masks: the mask losses train them, dashboards overlay them.
    """

    masks: bool = False

    def is_like(self, other: Kind) -> bool:
        """Whether `other` is of this kind, however a task has refined it: one metric scores both."""
        return isinstance(other, type(self)) and other.masks == self.masks

    # --- for programs

    @abstractmethod
    def records(
        self, prediction: Prediction, image: ImageInfo, predicted_size: tuple[int, int], text: str = ""
    ) -> list[dict[str, Any]]:
        """JSON records in the manner of COCO's results.

        Args:
            prediction: in pixels of an image of `predicted_size` (height, width).
            image: the original, in whose pixels the records are: `[x, y, width, height]`, compressed RLE.
            text: the expression or question that was asked.
        """

    def reread(self, record: dict[str, Any]) -> dict[str, Any] | None:
        """The fields of the `Prediction`, in the original's pixels, that one of `records` was made of.

        `ufo score` scores a kind that gives them by the mean of its `score`, and others by what their records
        have in common with COCO's; None: the kind does not say. Raises KeyError, TypeError or ValueError for
        what is no such record.
        """
        return None

    def found(self, prediction: Prediction, text: str = "") -> Iterator[Found]:
        """What can be pointed at, one by one, in the order of the prediction; of a text nothing can.

        Args:
            text: the expression that was asked for.
        """
        return iter(())

    def confident(self, prediction: Prediction, min_score: float) -> Prediction:
        """Only the objects with at least `min_score`, best first; other kinds are left alone."""
        return prediction

    def best(self, prediction: Prediction, count: int) -> Prediction:
        """The `count` most certain objects: hundreds of masks of full size fill memory, and pictures."""
        return prediction

    # --- for people

    @abstractmethod
    def summary(self, prediction: Prediction, min_score: float, text: str = "") -> str:
        """One line: how many of what, shares of the image, the text, or where it is."""

    @abstractmethod
    def in_words(self, prediction: Prediction, target: Target, classes: tuple[str, ...]) -> tuple[str, str]:
        """Answer and truth in a few words, for two cells of a table."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the table of answers that a dashboard shows beside pictures; none: no such table."""
        return ()

    def row(self, prediction: Prediction, target: Target) -> list[Any]:
        """The values of `columns` for one image."""
        return []

    # --- pictures

    @property
    def beside(self) -> bool:
        """Nothing is marked in the image: a comparison shows it once, with truth and answer beside it."""
        return False

    @abstractmethod
    def predicted(self, prediction: Prediction, shown: Shown) -> Marks:
        """What is drawn of a prediction, its best objects first, and what it is compared with."""

    def annotated(self, target: Target, classes: tuple[str, ...]) -> Marks:
        """What is drawn of the truth; a data set may know masks although boxes are asked for."""
        return annotated(target if self.masks else replace(target, masks=None), classes)

    def note(self, prediction: Prediction, target: Target) -> str:
        """How well the answer fits, in words below the picture; "" where the picture says it."""
        return ""

    def caption(self, prediction: Prediction, target: Target) -> str:
        """What stands below a dashboard's picture."""
        return target.text

    def overlays(
        self,
        prediction: Prediction,
        target: Target,
        classes: tuple[str, ...],
        size: tuple[int, int],
        min_score: float = 0.0,
    ) -> dict[str, Any]:
        """What `wandb.Image` wants as `boxes` and `masks`, each with predictions and ground truth.

        Args:
            size: (height, width) of the image shown, at least the original one.
            min_score: objects below it are left out of the masks.
        """
        return {}

    # --- how good, and compared with what

    @abstractmethod
    def score(self, prediction: Prediction, target: Target, classes: tuple[str, ...]) -> float | None:
        """How well one image was done, 0..1, to rank images: not a published metric.

        Args:
            prediction: on any device.

        Returns:
            None where the target does not hold what the answer is compared with.
        """

    def compare(
        self, prediction: Prediction, target: Target, classes: tuple[str, ...], certain: float = 0.3
    ) -> Compared:
        """What this image adds to a report: what was found, missed and mistaken for what.

        Args:
            prediction: on the CPU.
            certain: objects below this score are no faults, as a picture does not show them.
        """
        score = self.score(prediction, target, classes)
        if score is None:
            return Compared()
        sure = 1.0 if prediction.scores is None or not len(prediction.scores) else float(prediction.scores[0])
        right = score >= GOOD
        faults = [] if right else [(WEAK, ANSWER)]
        return Compared(said=[(ANSWER, sure, right)], there=[(ANSWER, "", right)], faults=faults)

    @abstractmethod
    def trivial(self, usual: Usual, size: tuple[int, int]) -> dict[str, Any]:
        """The fields of a `Prediction` that has not looked at the image of `size` (height, width)."""

    def truth(self, target: Target) -> list[str]:
        """All texts that would be right; of kinds other than text there are none."""
        return []
