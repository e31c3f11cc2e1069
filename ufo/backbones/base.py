"""The seam between a backbone and everything else (design: prefix -> query -> answer, paper section 3).

    context = backbone.encode(images, prompts, queries)      once per image
    hidden  = backbone.answer(context, ids)                  any number of times, whole answers or chunks

Shapes: `B` images, `Q` queries per image, `R = B*Q` answer rows, `T` answer tokens, `C` width, `d` of a head.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ufo.ops.grid import Queries


@dataclass
class LayerMemory:
    """Keys and values of one layer that an answer may attend to besides its own tokens.

    `shared` belongs to an image and serves all its queries, `own` to one query; either may be absent.
    """

    shared: tuple[Tensor, Tensor] | None = None  # 2 x [B, heads, N, d]
    own: tuple[Tensor, Tensor] | None = None  # 2 x [R, heads, n, d]
    local: Tensor | None = None  # [R, C], added to the first token of an answer before this layer

    def select(self, rows: Tensor, images: Tensor | None) -> LayerMemory:
        """The memory of some rows (and, where images leave as well, of some images)."""

        def pick(pair: tuple[Tensor, Tensor] | None, index: Tensor | None):
            return pair if pair is None or index is None else (pair[0][index], pair[1][index])

        local = None if self.local is None else self.local[rows]
        return LayerMemory(pick(self.shared, images), pick(self.own, rows), local)


@dataclass
class Start:
    """The first token of each answer where the prompt or the query decides what it is."""

    embedding: Tensor  # [R, C], stands for the embedding of the start token
    position: Tensor  # int64 [R], its place in the sequence; later tokens count on from there

    def select(self, rows: Tensor) -> Start:
        return Start(self.embedding[rows], self.position[rows])


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
    start: Start | None = None
    visible: Tensor | None = None  # bool [B, N], which shared keys are no padding; None: all
    rows: Rows | None = None  # None: R = B * Q rows, image by image

    @property
    def num_rows(self) -> int:
        if self.start is not None:
            return len(self.start.position)
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
            start=self.start and self.start.select(rows),
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


@dataclass(frozen=True)
class Compat:
    """Known bugs of the published language models; only their recordings need them.

    See docs/published_system.md#quirks.
    """

    end_of_longest_only: bool = False  # a batch learns to end its longest answers only
    embedding_of_first: bool = False  # the first token's feature is its embedding, not what emitted it
    padded_positions: bool = False  # answers of a shorter prompt count on from the longest prompt's end


class Backbone(nn.Module, ABC):
    """Turns images and prompts into a `Context` and runs answer tokens against it. Knows no task."""

    width: int  # C
    window_pixels: int  # the image's sides are multiples of this
    wording: ClassVar[str] = "ufo_vit"  # how its tasks phrase prompts and answers, see ufo.tasks.wording
    opening: ClassVar[str] = ""  # the end of every chat prompt that the model learns to say itself
    continues: ClassVar[bool] = False  # a single answer goes on where the prompt's text ends
    compat = Compat()
    lora: dict | None = None  # settings if not all of it trains, see ufo.backbones.lora
    base: dict | None = None  # name and fingerprint of the frozen weights, if a file holds them

    def chat(self, question: str) -> str:
        """The whole prompt around a task's question: system text, place of the image, whose turn it is."""
        return question

    def turn(self, question: str) -> str:
        """The text between the end of an answer and the next answer: a further question."""
        return question

    def attach(self, tokenizer) -> None:
        """Look up the tokens that this backbone must recognise; called once by the model.

        Raises ValueError where the tokenizer lacks one.
        """

    def check_prompt(self, ids: Tensor, mask: Tensor, height: int, width: int, answer: int) -> None:
        """Raises ValueError where prompts `[B or 1, n]`, still on the CPU, cannot be encoded.

        `answer` is how many tokens may follow, `height` and `width` are those of the image in pixels.
        """

    @abstractmethod
    def encode(
        self,
        images: Tensor,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        queries: Queries | None = None,
        causal: bool = False,
    ) -> Context:
        """Encode images `[B, 3, H, W]` (uint8 RGB) after their prompts `[B or 1, n]`.

        `prompt_mask [B or 1, n]` is True where a prompt token may be seen. Dense tasks pass their `queries`;
        without them the answer attends to the image directly (Q = 1). `causal`: image tokens do not see later
        image tokens (language models only).
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

    def part_of(self, parameter: str) -> str:
        """vision, projector, embeddings or lm: what a parameter of this name belongs to."""
        if "projector" in parameter or ".merger." in parameter:
            return "projector"
        if any(word in parameter for word in ("vision_tower.", ".visual.", "patch_embed", "pos_embed")):
            return "vision"
        return "embeddings" if self.is_text(parameter) else "lm"

    @property
    def device(self) -> torch.device:
        return self.output_embedding.device
