"""The seam between a backbone and everything else (design: prefix -> query -> answer, paper section 3).

    context = backbone.encode(images, prompts, queries)      once per image
    hidden  = backbone.answer(context, ids)                  any number of times, whole answers or chunks

Shapes: `B` images, `Q` queries per image, `R = B*Q` answer rows, `T` answer tokens, `C` width, `d` of a head.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ufo.ops.grid import Queries


@dataclass
class LayerMemory:
    """Keys and values of one layer that an answer may attend to besides its own tokens.

    `shared` belongs to an image and serves all its queries, `own` to one query; either may be absent.
    """

    shared: tuple[Tensor, Tensor] | None = None  # 2 x [B, heads, N, d]
    own: tuple[Tensor, Tensor] | None = None  # 2 x [R, heads, n, d]

    def select(self, rows: Tensor, images: Tensor | None) -> LayerMemory:
        """The memory of some rows (and, where images leave as well, of some images)."""

        def pick(pair: tuple[Tensor, Tensor] | None, index: Tensor | None):
            return pair if pair is None or index is None else (pair[0][index], pair[1][index])

        return LayerMemory(shared=pick(self.shared, images), own=pick(self.own, rows))


@dataclass
class Context:
    """An encoded image with its prompt and queries: all that answers need."""

    image_features: Tensor  # [B, H, W, C]
    memory: list[LayerMemory | None]  # one entry per layer; None: answers skip that layer
    num_queries: int  # Q

    @property
    def num_rows(self) -> int:
        return self.image_features.shape[0] * self.num_queries

    def select(self, rows: Tensor) -> Context:
        """The context of some answer rows `[R']`; used when finished rows leave the batch.

        `image_features` stays whole. Rows of an image share its memory, so with one query per image
        the images leave together with their rows.
        """
        images = rows if self.num_queries == 1 else None
        memory = [m.select(rows, images) if m else None for m in self.memory]
        return Context(self.image_features, memory, self.num_queries)


@dataclass
class AnswerCache:
    """Keys and values of the answer tokens so far: one buffer per layer, allocated once."""

    max_length: int
    length: int = 0
    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)  # 2 x [R, heads, T, d]

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write the keys and values `[R, heads, t, d]` of a new chunk; returns all so far."""
        if layer not in self.layers:
            shape = (*k.shape[:2], self.max_length, k.shape[3])
            self.layers[layer] = (k.new_empty(shape), v.new_empty(shape))
        keys, values = self.layers[layer]
        end = self.length + k.shape[2]
        keys[:, :, self.length : end] = k
        values[:, :, self.length : end] = v
        return keys[:, :, :end], values[:, :, :end]

    def select(self, rows: Tensor) -> None:
        """Keep only these rows (in this order); a row may be repeated, as beam search does."""
        self.layers = {i: (k[rows], v[rows]) for i, (k, v) in self.layers.items()}

    def copy(self, rows: Tensor) -> AnswerCache:
        """A cache of its own with these rows."""
        other = AnswerCache(self.max_length, self.length, dict(self.layers))
        other.select(rows)
        return other


class Backbone(nn.Module, ABC):
    """Turns images and prompts into a `Context` and runs answer tokens against it. Knows no task."""

    width: int  # C
    window_pixels: int  # the image's sides are multiples of this

    @abstractmethod
    def encode(
        self,
        images: Tensor,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        queries: Queries | None = None,
    ) -> Context:
        """Encode images `[B, 3, H, W]` (uint8 RGB) after their prompts `[B or 1, n]`.

        `prompt_mask [B or 1, n]` is True where a prompt token may be seen. Dense tasks pass their `queries`;
        without them the answer attends to the image directly (Q = 1).
        """

    @abstractmethod
    def answer(
        self,
        context: Context,
        ids: Tensor,
        packed: Tensor | None = None,
        cache: AnswerCache | None = None,
    ) -> Tensor:
        """Hidden states of answer tokens `ids [R, T]`, each of which predicts the next token.

        Returns `[R, T, C]`; with `packed [M]`, flat indices into R*T, only those positions are computed and
        `[M, C]` returned. With a `cache`, `ids` continue what the cache holds.
        """

    @property
    @abstractmethod
    def output_embedding(self) -> Tensor:
        """The matrix `[V, C]` whose product with a hidden state gives the token logits."""

    @property
    @abstractmethod
    def config(self) -> dict:
        """The arguments that build this backbone again (without weights)."""

    def grid_windows(self, height: int, width: int) -> tuple[int, int]:
        """How many windows (rows, columns) an image of this size in pixels has.

        Raises ValueError where the size does not divide into whole windows.
        """
        unit = self.window_pixels
        if height % unit or width % unit:
            fits = max(round(height / unit), 1) * unit
            raise ValueError(
                f"image size {width}x{height} does not divide into windows of {unit} pixels; "
                f"use a multiple of {unit}, for example {fits}"
            )
        return height // unit, width // unit

    def layer_of(self, parameter: str) -> int | None:
        """The transformer layer a parameter of this name belongs to, None outside the layers."""
        parts = parameter.split(".")
        if "layers" in parts:
            return int(parts[parts.index("layers") + 1])
        return None

    def is_text(self, parameter: str) -> bool:
        """Whether a parameter of this name belongs to the text side (embeddings, output head)."""
        return "embedding." in parameter

    @property
    def device(self) -> torch.device:
        return self.output_embedding.device
