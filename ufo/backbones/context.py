"""What a backbone hands to the answers: the encoded image, what each layer remembers, and a cache.

A `Context` is made once per image by `Backbone.encode`; `Backbone.answer` reads it any number of times.
Finished rows leave a batch with `select` (paper section 3.4).
Shapes: `B` images, `Q` queries per image, `R = B*Q` answer rows, `T` answer tokens, `C` width, `d` of a head.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

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

        def pick(pair: KeysValues | None, index: Tensor | None) -> KeysValues | None:
            return pair if pair is None or index is None else (pair[0][index], pair[1][index])

        local = None if self.local is None else self.local[rows]
        return LayerMemory(pick(self.shared, images), pick(self.own, rows), local)


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
        return replace(
            self,
            memory=[m.select(rows, images) if m else None for m in self.memory],
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
    """Keys and values of the answer tokens so far: one buffer per layer, allocated once."""

    max_length: int
    length: int = 0
    layers: dict[int, KeysValues] = field(default_factory=dict)  # 2 x [R, heads, T, d]

    def extend(self, layer: int, k: Tensor, v: Tensor) -> KeysValues:
        """Write the keys and values `[R, heads, t, d]` of a new chunk; returns all so far."""
        if layer not in self.layers:
            shape = (*k.shape[:2], self.max_length, k.shape[3])
            self.layers[layer] = (k.new_empty(shape), v.new_empty(shape))
        keys, values = self.layers[layer]
        end = self.length + k.shape[2]
        keys[:, :, self.length : end] = k
        values[:, :, self.length : end] = v
        return keys[:, :, :end], values[:, :, :end]

    def select(self, rows: Tensor, length: int | None = None, max_length: int | None = None) -> AnswerCache:
        """A cache of its own with these rows, in this order; a row may be repeated, as beam search does.

        The first `length` tokens are kept (default: all), `max_length` gives room for more. Only what is
        kept is copied.
        """
        kept = self.length if length is None else length
        room = self.max_length if max_length is None else max_length
        copy = AnswerCache(room, kept)
        for layer, (k, v) in self.layers.items():
            copy.layers[layer] = _pick(k, rows, kept, room), _pick(v, rows, kept, room)
        return copy


def _pick(x: Tensor, rows: Tensor, length: int, room: int) -> Tensor:
    """Rows and first tokens of `[R, heads, T, d]`, in a buffer with room for more tokens."""
    buffer = x.new_empty(len(rows), x.shape[1], room, x.shape[3])
    buffer[:, :, :length] = x[:, :, :length][rows]
    return buffer
