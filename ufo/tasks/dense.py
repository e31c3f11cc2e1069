"""What detection, instance and semantic segmentation share: grid queries (paper section 3.3).

Every object is matched to up to `repeat` queries, `samples_per_window` queries of each window are trained
(docs/published_system.md#assignment).
Shapes: `B` images, `Q` queries of the grid, `S` trained queries, `N` objects of one image, `H W` pixels.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

import torch
from torch import Tensor

from ufo.ops.grid import Queries
from ufo.ops.matching import assign, sample_per_window
from ufo.ops.names import find_class
from ufo.tasks.base import (
    WORDING_STREAM,
    Answer,
    Answers,
    Asked,
    ChosenMasks,
    Fields,
    Said,
    Task,
    batch_generator,
)
from ufo.types import MASK_TOKEN, Batch, given


@dataclass
class ImageObjects:
    """The objects of one image that queries may answer for."""

    labels: Tensor  # int64 [N]
    boxes: Tensor  # float32 [N, 4], xyxy pixels of the network's image
    masks: Tensor | None = None  # uint8 [N, H, W]; None: points inside and outside a box are alike


@dataclass(kw_only=True)
class DenseTask(Task):
    """A task whose queries each answer for at most one object.

    With probability `class_sampling` a training batch asks each image for a list of its own: the classes that
    are there and `negatives` times as many others, shuffled (docs/published_system.md#words).
    """

    names_first: ClassVar[bool] = True
    answers_background: ClassVar[bool] = True

    grid_per_window: int = 5
    samples_per_window: int = 10
    repeat: int = 3
    point_cost: float = 5.0
    class_sampling: float = 0.0
    negatives: int = 3

    mask_cost = 0.0  # of a point outside the object's mask; a setting of the tasks with masks

    # ---------------------------------------------------------------- what every dense task defines

    @abstractmethod
    def objects(self, batch: Batch, i: int) -> ImageObjects:
        """The objects of image `i`."""

    @abstractmethod
    def write_answers(
        self, batch: Batch, queries: Queries, objects: list[ImageObjects], matched: Tensor
    ) -> tuple[list[Answer], list[Tensor] | None]:
        """The answers of the trained `queries`, and whose masks they hold, image by image (None: nobody's).

        `matched [B, S]` says which of its image's objects a query answers for, -1 = none.
        """

    @abstractmethod
    def object_grammar(self) -> Fields:
        """What follows the class name and the comma, field by field."""

    def noise(self, queries: int, objects: int, generator: torch.Generator) -> Tensor | None:
        """What is added to the cost `[Q, repeat * N]` of assigning queries to objects."""
        return None

    def holds_object(self, rest: str, masks: int) -> bool:
        """Whether an answer goes on as the task promises, given the text behind the name and its comma."""
        return bool(rest.strip())

    def well_formed(self, said: Said, classes: Sequence[str]) -> bool:
        text = "".join(said.text.split())
        if not text:  # a grammar has fewer first tokens than `top_tokens` asks for
            return self.constrained and self.top_tokens > 1
        # a row leaves decoding after a first token that names no class, so the word may be cut off
        if self.answers_background and self.wording.background.startswith(text):
            return True
        index, rest = find_class(said.text, classes)
        return index >= 0 and self.holds_object(rest, said.masks)

    def scores_of(self, answers: Answers) -> Tensor:
        """The score of each answer's object, as far as its tokens tell, float32 `[Q]`."""
        if self.score == "first":
            return answers.scores
        return answers.scores * self.certain(answers)[:, 0]

    # ---------------------------------------------------------------- asking and supervision

    def prompts(
        self, batch: Batch, training: bool = False, lists: Sequence[Sequence[str]] | None = None
    ) -> list[str]:
        """The question about each image; `lists` are the classes of each one instead of the batch's."""
        if lists is None:  # the whole list is asked for in the same words in training and at inference
            return [self.prompt(batch.classes, "")] * len(batch)
        generator = batch_generator(batch, WORDING_STREAM)
        return [self.prompt(classes, "", generator) for classes in lists]

    def supervise(self, batch: Batch, grid: Queries | None) -> Asked:
        generator = batch_generator(batch)
        objects = [self.objects(batch, i) for i in range(len(batch))]
        queries, matched = self.match(objects, batch.image_size, given(grid, "queries"), generator)
        lists = self.sample_classes(batch.classes, [o.labels for o in objects], generator)
        answers, chosen = self.write_answers(batch, queries, objects, matched)
        asked = Asked(self.prompts(batch, True, lists), queries, answers, classes=lists)
        if chosen is not None:
            masks = [given(one.masks, "masks") for one in objects]
            before = [0, *accumulate(map(len, masks))][:-1]
            rows = torch.cat([begin + one for begin, one in zip(before, chosen, strict=True)])
            asked.masks, asked.mask_counts = ChosenMasks(masks, rows), [len(c) for c in chosen]
        return asked

    def match(
        self,
        objects: Sequence[ImageObjects],
        size: tuple[int, int],
        grid: Queries,
        generator: torch.Generator,
    ) -> tuple[Queries, Tensor]:
        """The trained queries and the object each answers for: `[B, S]`, -1 = none."""
        assigned = torch.stack([self.assign(one, size, grid, generator) for one in objects])
        chosen = sample_per_window(assigned, grid.windows[0], self.samples_per_window, generator=generator)
        return grid.select(chosen, by_window=True), assigned.gather(1, chosen)

    def assign(
        self, objects: ImageObjects, size: tuple[int, int], grid: Queries, generator: torch.Generator
    ) -> Tensor:
        """Index of the object of one image that each query of the grid answers for, `[Q]`, -1 = none.

        `size` is the (height, width) that the objects' pixels are of.
        """
        points = grid.references[0]
        noise = self.noise(len(points), self.repeat * len(objects.labels), generator)
        if not len(objects.boxes):
            return torch.full((len(points),), -1)
        return assign(
            points,
            objects.boxes,
            size,
            objects.masks,
            repeat=self.repeat,
            point_weight=self.point_cost,
            mask_weight=self.mask_cost,
            noise=noise,
        )

    def sample_classes(
        self, classes: Sequence[str], labels: Sequence[Tensor], generator: torch.Generator
    ) -> list[tuple[str, ...]] | None:
        """A list of classes for each image, given the labels `[N]` in it; None: the whole list for all."""
        if not self.class_sampling or torch.rand((), generator=generator) >= self.class_sampling:
            return None
        return [tuple(classes[j] for j in self._sampled(x, len(classes), generator)) for x in labels]

    def _sampled(self, labels: Tensor, count: int, generator: torch.Generator) -> list[int]:
        """The classes present and random others, shuffled."""
        present = labels.unique()
        others = torch.randperm(count, generator=generator)
        others = others[~torch.isin(others, present)][: self.negatives * max(len(present), 1)]
        chosen = torch.cat([present, others])
        shuffled: list[int] = chosen[torch.randperm(len(chosen), generator=generator)].tolist()
        return shuffled

    def longest_answers(self, classes: Sequence[str]) -> tuple[str, ...]:
        rest = "".join(max(texts, key=len) for texts in self.object_grammar())
        return tuple(f"{name},{rest}" for name in classes)

    def grammar(self, classes: Sequence[str]) -> tuple[Fields, ...]:
        answers = ((tuple(classes), (",",), *self.object_grammar()),)
        return (*answers, ((self.wording.background,),)) if self.answers_background else answers


@dataclass(kw_only=True)
class MaskTask(DenseTask):
    """A dense task that answers `name,<MASK>...<MASK>`."""

    mask_tokens: int = 16
    mask_cost: float = 100.0

    def __post_init__(self) -> None:
        """Raises ValueError where the mask tokens form no square of sub-pixels."""
        self.check_mask_tokens()

    def object_grammar(self) -> Fields:
        return ((MASK_TOKEN * self.mask_tokens,),)

    def holds_object(self, rest: str, masks: int) -> bool:
        return masks == self.mask_tokens

    def write_answers(
        self, batch: Batch, queries: Queries, objects: list[ImageObjects], matched: Tensor
    ) -> tuple[list[Answer], list[Tensor]]:
        suffix = "," + MASK_TOKEN * self.mask_tokens
        otherwise = self.wording.background if self.answers_background else None
        answers: list[Answer] = []
        chosen: list[Tensor] = []
        for one, row in zip(objects, matched, strict=True):
            texts = [batch.classes[j] + suffix for j in one.labels.tolist()]
            answers += [texts[j] if j >= 0 else otherwise for j in row.tolist()]
            chosen.append(row[row >= 0])
        return answers, chosen
