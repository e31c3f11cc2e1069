"""How sure a model was of the objects in its answers, told by the probabilities of the tokens that say them.

The tokens of an object are those of a box's four numbers, or of a mask. The states that emitted them are kept
by decoding anyway, so nothing is computed before a task asks, and then of these tokens alone.
Shapes: `R` answer rows, `T` answer tokens, `n` objects that an answer may list, `P` tokens of objects, `C`
width, `V` vocabulary, `S` values of a number.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ufo.ops.expected_iou import expected_iou, expected_numbers
from ufo.tokenizer import Tokenizer

_NUMBERS = 4  # of a box
_DIGITS = 6  # a longer token is no number of a box
_AT_ONCE = 1 << 24
"""Log probabilities that are computed at a time (64 MB)."""


class Vocabulary(NamedTuple):
    """Which tokens say numbers."""

    value: Tensor  # int64 [V], -1 of tokens that are no digits
    kind: Tensor  # int64 [V], how many digits; negative where the token goes on with a word (WordPiece's ##)


@dataclass(frozen=True)
class Layout:
    """What the objects of a task's answers look like."""

    objects: int = 1  # n
    largest: int = 0  # a box's largest number, S - 1; 0: there are no boxes
    mask_id: int = -1
    mask_tokens: int = 0  # of one mask; 0: there are none
    at_end: bool = False  # a class name, which may hold numbers, stands before the only object


@dataclass(eq=False)
class Certainty:
    """What the tokens of decoded answers say about their objects; rows as in `Decoded`."""

    ids: Tensor  # int64 [R, T]
    features: Tensor  # [R, T, C], the states that emitted them
    embedding: Tensor  # [V, C]
    tokenizer: Tokenizer
    layout: Layout
    temperature: float = 1.0
    first: Tensor | None = None  # [R, C], the states that emitted first tokens, where `features` has others

    def of(self, score: str) -> Tensor:
        """`sequence` or `quality`, float32 `[R, n]`. Raises ValueError for another name."""
        if score not in ("sequence", "quality"):
            raise ValueError(f"tokens tell no score '{score}'; there are sequence and quality")
        return self._sequence if score == "sequence" else self._quality

    def numbers(self, rows: slice) -> tuple[Tensor, Tensor]:
        """The numbers of each box of some rows: as said, int64 `[R, n, 4]`, and as expected, float32.

        Expected as by `expected_numbers`; -1 where a row has fewer boxes, or a box fewer numbers.
        """
        said, expected = self._boxes
        return said[rows], expected[rows]

    @cached_property
    def _boxes(self) -> tuple[Tensor, Tensor]:
        """`numbers` of all rows."""
        shape = len(self.ids), self.layout.objects, _NUMBERS
        said, expected = self.ids.new_full(shape, -1), self.features.new_full(shape, -1, dtype=torch.float32)
        if self.layout.largest:
            found, boxes, spread = self._numbers
            whole = (spread.sum(2) > 0).all(1, keepdim=True)
            said.view(-1, _NUMBERS)[found] = boxes.where(whole, -1)
            expected.view(-1, _NUMBERS)[found] = expected_numbers(boxes, spread).where(whole, -1)
        return said, expected

    @cached_property
    def _sequence(self) -> Tensor:
        """The geometric mean of the probabilities of an object's tokens; 0 where there are fewer objects."""
        rows, objects = self._places[0], self._slots // self._per_object
        sums = self.features.new_zeros(2, len(self.ids), self.layout.objects, dtype=torch.float32)
        said, _ = self._log_probs
        sums[0].index_put_((rows, objects), said, accumulate=True)
        sums[1].index_put_((rows, objects), torch.ones_like(said), accumulate=True)
        return (sums[0] / sums[1].clamp(min=1)).exp() * (sums[1] > 0)

    @cached_property
    def _quality(self) -> Tensor:
        """The expected IoU of each box (`ufo.ops.expected_iou`), 0 where there are fewer; of masks 1."""
        shape = len(self.ids), self.layout.objects
        if not self.layout.largest:
            return self.features.new_ones(shape, dtype=torch.float32)
        found, boxes, spread = self._numbers
        whole = (spread.sum(2) > 0).all(1)
        quality = self.features.new_zeros(shape, dtype=torch.float32)
        quality.view(-1)[found] = expected_iou(boxes, spread) * whole
        return quality

    # ---------------------------------------------------------------- the tokens of objects

    @property
    def _per_object(self) -> int:
        return self.layout.mask_tokens or _NUMBERS

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        found = number_tokens(self.tokenizer, len(self.embedding))
        return Vocabulary(*(x.to(self.ids.device) for x in found))

    @cached_property
    def _number(self) -> Tensor:
        """Which of a row's numbers, or mask tokens, each token belongs to, int64 `[R, T]`; -1: none."""
        if self.layout.mask_tokens:
            said = begins = self.ids == self.layout.mask_id
        else:
            said = self._vocabulary.value[self.ids] >= 0
            begins = said.clone()
            begins[:, 1:] &= ~said[:, :-1]
        number = begins.cumsum(1) - 1
        if self.layout.at_end and not self.layout.mask_tokens:
            number = number - (number[:, -1:] + 1 - _NUMBERS).clamp(min=0)
        inside = said & (number >= 0) & (number < self.layout.objects * self._per_object)
        return torch.where(inside, number, -1)

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor]:
        """Rows and columns of the tokens that belong to an object, `[P]` each."""
        rows, columns = (self._number >= 0).nonzero(as_tuple=True)
        return rows, columns

    @cached_property
    def _slots(self) -> Tensor:
        """`_number` of these tokens, `[P]`."""
        return self._number[self._places]

    @cached_property
    def _candidates(self) -> Tensor:
        """Tokens that may say a number of a box, or a part of one, int64 `[K]`."""
        value = self._vocabulary.value
        return ((value >= 0) & (value <= self.layout.largest)).nonzero()[:, 0]

    @cached_property
    def _log_probs(self) -> tuple[Tensor, Tensor]:
        """At these places, of what was said `[P]` and of the candidates `[P, K]`; float32, also in bfloat16.

        In pieces: all tokens of a large vocabulary at all places would fill the memory.
        """
        step = max(_AT_ONCE // len(self.embedding), 1)
        said, candidates = [self._no_place], [self._no_place.new_zeros(0, len(self._candidates))]
        for rows, columns in zip(*(places.split(step) for places in self._places), strict=True):
            states = self.features[rows, columns]
            if self.first is not None:
                states = torch.where(columns[:, None] == 0, self.first[rows], states)
            logits = F.linear(states, self.embedding).float()
            log_probs = (logits / self.temperature).log_softmax(-1)
            said.append(log_probs.gather(1, self.ids[rows, columns, None])[:, 0])
            candidates.append(log_probs[:, self._candidates])
        return torch.cat(said), torch.cat(candidates)

    @property
    def _no_place(self) -> Tensor:
        return self.features.new_zeros(0, dtype=torch.float32)

    # ---------------------------------------------------------------- what other numbers were as likely

    @cached_property
    def _numbers(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of the boxes that hold any number, `N` of all `R*n`: which they are, and what their numbers are.

        Returns:
            Their places among all `[N]`, the numbers as they were said int64 `[N, 4]`, and the probability of
            each value `[N, 4, S]`.

        A number of several tokens may differ in each of them: what follows is taken to bring it as near as
        possible to what was said, as 199 is beside 200.
        """
        value, kind = self._vocabulary
        ids, numbers, size = self.ids[self._places], self._candidates, self.layout.largest + 1
        box = self._places[0] * self.layout.objects + self._slots // _NUMBERS
        found, box = box.unique(return_inverse=True)
        total, group = len(found) * _NUMBERS, box * _NUMBERS + self._slots % _NUMBERS  # [P], the number
        said, candidates = self._log_probs
        after, before, last, single = _around(group, kind[ids].abs(), said)
        boxes = torch.zeros(total, dtype=torch.int64, device=ids.device)
        boxes.index_add_(0, group, value[ids] * 10**after)
        of_kind, whole = kind[numbers] == kind[ids][:, None], (kind[numbers] > 0) & (kind[ids] > 0)[:, None]
        fits = of_kind | (whole & single[:, None])  # a part of a longer number keeps its length
        # the last token of a number stands for what was said as well, the others for what differs in them
        fits &= last[:, None] | (numbers != ids[:, None])
        weight = (candidates + before[:, None]).exp() * fits
        behind, as_said = (10**after)[:, None], boxes[group][:, None]
        lowest = (as_said // behind + value[numbers] - value[ids][:, None]) * behind
        becomes = as_said.clamp(lowest, lowest + behind - 1)
        place = group[:, None] * size + becomes.clamp(0, size - 1)
        spread = weight.new_zeros(total * size).index_add_(0, place.flatten(), weight.flatten())
        return found, boxes.clamp(0, size - 1).view(-1, _NUMBERS), spread.view(-1, _NUMBERS, size)


def _around(group: Tensor, digits: Tensor, said: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of tokens `[P]` in the order of their numbers `group [P]`: what stands around each in its number.

    How many digits follow it, the log probability of the tokens before it, whether it is the last, and
    whether it is the only one.
    """
    changes = group[1:] != group[:-1]
    edge = changes.new_ones(min(len(group), 1))
    begins, last = torch.cat([edge, changes]), torch.cat([changes, edge])
    number = begins.cumsum(0) - 1
    through, sums = digits.cumsum(0), said.double().cumsum(0)
    first = begins.nonzero()[:, 0]
    after = through[last.nonzero()[:, 0]][number] - through
    before = sums - said - (sums - said)[first][number]
    return after.clamp(max=_DIGITS), before.float(), last, begins & last


@lru_cache(maxsize=16)
def number_tokens(tokenizer: Tokenizer, size: int) -> Vocabulary:
    """The tokens among the first `size` that say a number, or a part of one."""
    value, kind = torch.full((size,), -1), torch.zeros(size, dtype=torch.int64)
    for number, text in enumerate(tokenizer.decode([[i] for i in range(len(tokenizer))])[:size]):
        word = text.strip()
        bare = word.removeprefix("##")
        if bare.isascii() and bare.isdigit() and len(bare) <= _DIGITS:
            value[number] = int(bare)
            kind[number] = len(bare) if bare == word else -len(bare)
    return Vocabulary(value, kind)
