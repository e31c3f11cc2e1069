"""What a backbone hands to the answers: the encoded image, what each layer remembers, and a cache.

A `Context` is made once per image by `Backbone.encode`; `Backbone.answer` reads it any number of times.
Finished rows leave a batch with `select` (paper section 3.4).
Shapes: `B` images, `Q` queries per image, `R = B*Q` answer rows, `T` answer tokens, `C` width, `d` of a head.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

KeysValues = tuple[Tensor, Tensor]
"""Keys and values of one layer, of the same shape."""


@dataclass
class LayerMemory:
    """Keys and values of one layer that an answer may attend to besides its own tokens.

    `shared` belongs to an image and serves all its queries, `own` to one query; either may be absent.
    """

    shared: KeysValues | None = None  # 2 x [B, heads, N, d]
    own: KeysValues | None = None  # 2 x [R, heads, n, d]
    local: Tensor | None = None  # [R, C], added to the first token of an answer before this layer

    def select(self, rows: Tensor, images: Tensor | None) -> LayerMemory:
        """The memory of some rows (and, where images leave as well, of some images)."""
        return _Selected(self, rows, images)


class _Selected(LayerMemory):
    """Memory of some rows, looked up when it is read: after the first call an `AnswerCache` holds it."""

    def __init__(self, whole: LayerMemory, rows: Tensor, images: Tensor | None):
        self._whole, self._rows = whole, rows
        self.shared = whole.shared if images is None else _pick(whole.shared, images)

    @cached_property
    def own(self) -> KeysValues | None:  # type: ignore[override]  # a field there, worked out here
        return _pick(self._whole.own, self._rows)

    @cached_property
    def local(self) -> Tensor | None:  # type: ignore[override]
        return None if self._whole.local is None else self._whole.local[self._rows]


def _pick(pair: KeysValues | None, index: Tensor) -> KeysValues | None:
    return None if pair is None else (pair[0][index], pair[1][index])


@dataclass
class FirstToken:
    """The first token that each answer is fed, where the prompt or the query decides what it is."""

    embedding: Tensor  # [R, C], in place of the embedding of the start token
    position: Tensor  # int64 [R], its place in the sequence; later tokens count on from there

    def select(self, rows: Tensor) -> FirstToken:
        return FirstToken(self.embedding[rows], self.position[rows])


@dataclass
class Rows:
    """Which image each answer row belongs to, once rows have left or doubled: image `[R]`, slot `[R]`.

    A row is the `slot`-th of its image; no image has more than `slots`.
    """

    image: Tensor
    slot: Tensor
    slots: int


@dataclass
class Context:
    """An encoded image with its prompt and queries: all that answers need."""

    image_features: Tensor  # [B, H, W, C]
    memory: list[LayerMemory | None]  # one entry per layer; None: answers skip that layer
    num_queries: int  # Q
    first_token: FirstToken | None = None
    visible: Tensor | None = None  # bool [B, N], which shared keys are no padding; None: all
    rows: Rows | None = None  # None: R = B * Q rows, image by image
    # the memory that rows were selected from, and which of its rows are left, int64 [R]
    origin: tuple[list[LayerMemory | None], Tensor] | None = None

    @property
    def num_rows(self) -> int:
        if self.first_token is not None:
            return len(self.first_token.position)
        return self.image_features.shape[0] * self.num_queries

    def select(self, rows: Tensor) -> Context:
        """The context of some answer rows `[R']`; used when finished rows leave the batch.

        `image_features` stays whole. Rows of an image share its memory, so with one query per image
        the images leave together with their rows.
        """
        images = rows if self.num_queries == 1 else None
        visible = self.visible
        memory, left = self.memory, rows
        if self.origin is not None:
            memory, left = self.origin[0], self.origin[1][rows]
        left_images = None if images is None else left
        return replace(
            self,
            memory=[m.select(left, left_images) if m else None for m in memory],
            origin=(memory, left),
            first_token=self.first_token and self.first_token.select(rows),
            visible=visible[images] if visible is not None and images is not None else visible,
            rows=None if images is not None else self._group(rows),
        )

    def _group(self, rows: Tensor) -> Rows | None:
        """The images of some rows, where answers share an image's memory."""
        shared = next((m.shared for m in self.memory if m), None)
        if shared is None:
            return None
        image = rows // self.num_queries if self.rows is None else self.rows.image[rows]
        if len(shared[0]) == 1:
            return Rows(image, torch.arange(len(rows), device=rows.device), len(rows))
        inside = F.one_hot(image, len(shared[0]))  # [R, B]
        slot = (inside.cumsum(0) * inside).sum(1) - 1
        return Rows(image, slot, int(slot.max()) + 1)  # synchronises: a step of many rows costs more


@dataclass
class AnswerCache:
    """Keys and values of answers so far, behind those of the rows' own memory: one buffer for all layers."""

    max_length: int
    length: int = 0
    before: int = 0  # keys of a row's own memory
    buffer: Tensor | None = None  # [layers, 2, R, heads, before + T, d]
    slots: dict[int, int] = field(default_factory=dict)  # layer -> its place in the buffer

    def extend(
        self, layer: int, k: Tensor, v: Tensor, layers: int = 1, memory: KeysValues | None = None
    ) -> KeysValues:
        """Write the keys and values `[R, heads, t, d]` of a new chunk; returns all so far.

        The first call says how many `layers` there will be, and in each one what `memory` 2 x
        `[R, heads, n, d]` stands before the answers; later calls need not.
        """
        if self.buffer is None:
            self.before = 0 if memory is None else memory[0].shape[2]
            room = self.before + self.max_length
            self.buffer = k.new_empty(layers, 2, *k.shape[:2], room, k.shape[3])
        keys, values = self.buffer[self.slots.setdefault(layer, len(self.slots))]
        if memory is not None:
            keys[:, :, : self.before], values[:, :, : self.before] = memory
        begin = self.before + self.length
        end = begin + k.shape[2]
        keys[:, :, begin:end] = k
        values[:, :, begin:end] = v
        return keys[:, :, :end], values[:, :, :end]

    def select(self, rows: Tensor, length: int | None = None, max_length: int | None = None) -> AnswerCache:
        """A cache of its own with these rows, in this order; a row may be repeated, as beam search does.

        The first `length` tokens are kept (default: all), `max_length` gives room for more. Only what is
        kept is copied.
        """
        kept = self.length if length is None else length
        copy = AnswerCache(self.max_length if max_length is None else max_length, kept, self.before)
        if self.buffer is not None:
            copy.slots, end = dict(self.slots), self.before + kept
            layers, pair, _, heads, _, width = self.buffer.shape
            room = self.before + copy.max_length
            copy.buffer = self.buffer.new_empty(layers, pair, len(rows), heads, room, width)
            copy.buffer[..., :end, :] = self.buffer[..., :end, :].index_select(2, rows)
        return copy
