"""What differs between families in the text of a task: its questions, and how boxes and masks are answered.

Tasks ask their `wording` instead of the family's name, so a new family is one file here.
The chat format around a question (system text, roles, place of the image) belongs to the backbone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from ufo.types import MASK_TOKEN

_OUTSIDE = 10**6  # bins, beyond any image


@dataclass(frozen=True)
class Question:
    """The templates of one question; `{...}` names what the task fills in."""

    asked: str  # of inference
    trained: tuple[str, ...] = ()  # training draws one of them; empty: as at inference

    def write(self, generator: torch.Generator | None = None, **values: object) -> str:
        """The question, in one of the words of training if there is a `generator`."""
        template = _draw(self.trained or (self.asked,), generator) if generator else self.asked
        return template.format(**values)


@dataclass(frozen=True, kw_only=True)
class Wording:
    """The texts of one family.

    Args:
        questions: by task name, and whatever else a task asks (reasoning about a phrase or a sentence).
        background: what a query says that answers for no object.
        nothing: the answer that no object is what a text refers to; no other answer begins as it does.
        box: what stands around the four numbers of a box.
        separator: between the boxes, or the masks, of one answer.
        mask_answers: templates of an answer that is one mask; training draws one of them.
    """

    questions: Mapping[str, Question]
    background: str = "background"
    nothing: str = "background"
    box: tuple[str, str] = ("", "")
    separator: str = ";"
    mask_answers: tuple[str, ...] = ("{mask}",)
    between: ClassVar[str] = ","  # two numbers of a box

    def ask(self, name: str, generator: torch.Generator | None = None, **values: object) -> str:
        """The question `name`; ValueError if this family has no words for it."""
        if name not in self.questions:
            known = ", ".join(sorted(self.questions))
            raise ValueError(f"this family has no question '{name}', only {known}; add it to its wording")
        return self.questions[name].write(generator, **values)

    def write_box(self, bins: Sequence[int]) -> str:
        """The text of a box, given its four bins."""
        return self.box[0] + self.between.join(map(str, bins)) + self.box[1]

    def write_boxes(self, boxes: Sequence[Sequence[int]]) -> str:
        """The text of several boxes, or that there is none."""
        return self.separator.join(map(self.write_box, boxes)) or self.nothing

    def read_boxes(self, text: str, most: int) -> list[list[int]]:
        """`read_box` of each of the first `most` boxes in a text; what cannot be read is left out."""
        parts = text.split(self.separator, most)[:most] if most > 1 else [text]
        return [bins for bins in map(self.read_box, parts) if bins is not None]

    def box_grammar(self, num_bins: int) -> tuple[tuple[str, ...], ...]:
        """The fields of a box's text, each one of some texts; the marks around it included."""
        before, after = self.box
        bins = tuple(map(str, range(num_bins + 1)))
        numbers = (bins, *((self.between,), bins) * 3)
        return (*[(before,)] * bool(before), *numbers, *[(after,)] * bool(after))

    def read_box(self, text: str) -> list[int] | None:
        """The first four numbers of the first box in a text; None if it is missing, cut off or no numbers.

        Blanks inside a number and full stops do not matter.
        """
        before, after = self.box
        if before:
            _, found, text = text.partition(before)
            if not found:
                return None
        if after:
            text, found, _ = text.partition(after)
            if not found:
                return None
            text = text.replace(".", "")
        return _numbers(text)

    def write_mask(self, mask_tokens: int, generator: torch.Generator | None = None, count: int = 1) -> str:
        """An answer that is one mask, or several; without a generator the last wording."""
        template = _draw(self.mask_answers, generator) if generator else self.mask_answers[-1]
        return template.format(mask=self.separator.join([MASK_TOKEN * mask_tokens] * count))


def _draw(options: Sequence[str], generator: torch.Generator) -> str:
    if len(options) == 1:
        return options[0]
    return options[int(torch.randint(len(options), (), generator=generator))]


def _numbers(text: str) -> list[int] | None:
    """The first four comma-separated fields as integers, None if they are not."""
    fields = text.split(Wording.between)
    if len(fields) < 4:
        return None
    try:
        numbers = [int(f.replace(" ", "")) for f in fields[:4]]
    except ValueError:
        return None
    # an answer may hold more digits than fit a tensor; so far outside the image it makes no difference
    return [min(max(n, -_OUTSIDE), _OUTSIDE) for n in numbers]
