"""Visual grounding (REC): the box of what a text refers to, answered as its `cx,cy,w,h` (paper section 3.3).

All four in bins of the image; what cannot be parsed is the zero box. Several boxes (`max_objects`) are
separated, from the left to the right of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torchvision.ops import box_area

from ufo.kinds import Kind, Referred
from ufo.ops.boxes import decode_boxes, encode_boxes
from ufo.ops.grid import Queries
from ufo.tasks.base import Answers, Asked, Fields, Said
from ufo.tasks.box import BoxNumbers
from ufo.tasks.expression import Expressions
from ufo.types import Batch, Prediction, given


@dataclass(kw_only=True)
class Grounding(BoxNumbers, Expressions):
    """One box per expression; with `max_objects` several, the largest ones of more."""

    name: ClassVar[str] = "grounding"
    kind: ClassVar[Kind] = Referred()
    needs: ClassVar[frozenset[str]] = frozenset({"expression", "boxes"})

    max_length: int = 20

    @property
    def object_tokens(self) -> int:
        return len(self.wording.box_grammar(0))

    def holds_objects(self, said: Said) -> bool:
        listed = said.text.count(self.wording.separator) + 1 if self.max_objects > 1 else 1
        read = self.wording.read_boxes(said.text, self.max_objects)
        return len(read) == min(listed, self.max_objects)

    def longest_answers(self, classes: Sequence[str]) -> tuple[str, ...]:
        return ("".join(max(texts, key=len) for texts in self.grammar(())[-1]),)

    def grammar(self, classes: Sequence[str]) -> tuple[Fields, ...]:
        box, between = self.wording.box_grammar(self.num_bins), ((self.wording.separator,),)
        return tuple(box + (between + box) * more for more in range(self.max_objects))

    def supervise(self, batch: Batch, grid: Queries | None) -> Asked:
        boxes = [
            self._listed(b, text) for b, text in zip(given(batch.boxes, "boxes"), batch.texts, strict=True)
        ]
        bins = encode_boxes(torch.cat(boxes), batch.image_size, self.num_bins).split([len(b) for b in boxes])
        answers = [self.wording.write_boxes(some.tolist()) for some in bins]
        return Asked(self.prompts(batch, training=True), answers=answers)

    def _listed(self, boxes: Tensor, text: str) -> Tensor:
        """The boxes `[n, 4]` that an answer lists, in its order; the one of published data is the first."""
        if not len(boxes):
            self.refuse_nothing(text)
        if self.max_objects == 1:
            return boxes[:1]
        largest = box_area(boxes).argsort(descending=True, stable=True)[: self.max_objects]
        return boxes[largest[boxes[largest, 0].argsort(stable=True)]]

    def parse(self, answers: Answers) -> Prediction:
        device, presence = answers.scores.device, self.presence(answers)
        bins = self.wording.read_boxes(answers.texts[0], self.max_objects)
        boxes, scores = torch.zeros(1, 4, device=device), self.scores_of(answers, max(len(bins), 1))
        if bins:
            said, which = torch.tensor(bins, device=device), torch.arange(len(bins), device=device)
            numbers = self.numbers_of(answers, torch.zeros_like(which), which, said)
            boxes = decode_boxes(numbers, answers.size, self.num_bins)
        return Prediction(
            self.name,
            boxes=self.kept(boxes, presence),
            scores=scores if bins or self.score == "first" else torch.zeros_like(scores),
            presence=presence,
            text=answers.texts[0],
        )
