"""The two parts of an export as modules: from images to the first token, and from a token to the next.

    features, logits, hidden, memory, *prefix = encoder(images)
    logits, hidden, memory = step(tokens, memory, *prefix)      as often as an answer has further tokens

They are `Backbone.encode` and `Backbone.answer` with a cache that grows by new tensors: a graph writes into
none. Shapes: `B` images, `Q` queries of an image, `R = B*Q` rows, `L` layers that answers pass, `h` heads,
`t` places that a row sees, `d` of a head, `C` width, `V` tokens, `n` of a prompt, `N` of a prefix.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export

from ufo.backbones.context import AnswerCache, Context, FirstToken, KeysValues, LayerMemory
from ufo.inference.asking import Request
from ufo.model import UFO
from ufo.ops.faster import definitions
from ufo.ops.grid import Queries

OUTPUTS = ("features", "logits", "hidden", "memory", "prefix", "position", "visible")
"""What an encoder gives; a step gives the second to the fourth of them again."""
BATCH = 3  # images of an example: another number than those of anything else


class GrowingCache(AnswerCache):
    """A cache whose keys and values are joined to the new ones instead of written into a buffer.

    `past` is `[L, 2, R, h, t, d]`, what the rows' own memory and their answers so far have left; `before` of
    its t places are no answer's.
    """

    def __init__(self, past: Tensor | None = None, before: int = 0):
        super().__init__(0, 0 if past is None else past.shape[4] - before, before)
        self.past = past
        self.grown: list[Tensor] = []

    def extend(
        self, layer: int, k: Tensor, v: Tensor, layers: int = 1, memory: KeysValues | None = None
    ) -> KeysValues:
        earlier = memory if self.past is None else self.past[len(self.grown)].unbind(0)
        if earlier is not None:
            k, v = torch.cat([earlier[0], k], 2), torch.cat([earlier[1], v], 2)
        self.grown.append(torch.stack([k, v]))
        return k, v


class Encoder(nn.Module):
    """Images uint8 `[B, 3, S, S]`, and for a task with texts prompts `[B, n]` and what is no padding of them.

    Gives image features `[B, H, W, C]`, of each answer's first token logits `[R, V]` and the state behind
    them `[R, C]`, the memory `[L, 2, R, h, t, d]`, and from a language model the prefix `[L, 2, B, h, N, d]`,
    the first token's position `[R]` and, of prompts that differ, which prefix tokens are visible `[B, N]`.
    """

    ids: Tensor
    mask: Tensor
    references: Tensor
    windows: Tensor

    def __init__(self, model: UFO, request: Request):
        super().__init__()
        self.model, self.task = model, model.task(request.task)
        question = self.task.prompt(request.classes, request.text)
        device, side = model.backbone.device, self.task.image_size
        ids, mask = model.tokenizer.encode_prompts([model.backbone.chat(question)])
        model.backbone.check_prompt(ids, mask, side, side, self.task.max_length)
        self.register_buffer("ids", ids.clone().to(device))  # a view would be stored with all it is a view of
        self.register_buffer("mask", mask.clone().to(device))
        self.queries = model.grid(self.task, side, side)
        if self.queries is not None:  # a graph takes tensors for constants only where they are a module's
            self.register_buffer("references", self.queries.references.to(device))
            self.register_buffer("windows", self.queries.windows.to(device))
        self.layers = 0
        if not self.task.needs_text:  # the one prompt is read here and now
            with torch.no_grad():
                read = model.backbone.encode_prompt(self.ids, self.mask) or ()
            self.layers = len(read)
            for number, (keys, values) in enumerate(read):
                self.register_buffer(f"keys{number}", keys.clone(memory_format=torch.contiguous_format))
                self.register_buffer(f"values{number}", values.clone(memory_format=torch.contiguous_format))

    def forward(
        self, images: Tensor, prompt: Tensor | None = None, visible: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        backbone, queries = self.model.backbone, self.queries
        if queries is not None:
            queries = Queries(self.references, self.windows, queries.grid)
        ids, mask = (self.ids, self.mask) if prompt is None or visible is None else (prompt, visible)
        read = [(getattr(self, f"keys{i}"), getattr(self, f"values{i}")) for i in range(self.layers)] or None
        context = backbone.encode(images, ids, mask, queries, self.task.causal_image, read)
        cache = GrowingCache()
        start = torch.full((images.shape[0] * context.num_queries, 1), self.model.tokenizer.start_id)
        hidden = backbone.answer(context, start.to(images.device), cache=cache)[:, 0]
        logits = hidden @ backbone.output_embedding.T
        return (
            context.image_features,
            logits,
            hidden,
            torch.stack(cache.grown),
            *_prefix(context, self.task.needs_text),
        )


def _prefix(context: Context, texts: bool) -> tuple[Tensor, ...]:
    """What answers of a language model share; nothing of a UFO-ViT."""
    first = context.first_token
    if first is None:
        return ()
    shared = [torch.stack(m.shared) for m in context.memory if m is not None and m.shared is not None]
    prefix, visible = torch.stack(shared), context.visible
    if not texts:
        return prefix, first.position
    if visible is None:  # a single picture's prompt has no padding
        visible = prefix.new_ones(prefix.shape[2], prefix.shape[4], dtype=torch.bool)
    return prefix, first.position, visible


class Step(nn.Module):
    """The last tokens `[R]` and what their rows remember; gives logits, states and memory as an encoder does.

    `layers` says which layers answers pass, `before` how many places of the memory are no answer's.
    """

    def __init__(self, model: UFO, layers: list[bool], queries: int, before: int):
        super().__init__()
        self.backbone, self.layers, self.queries, self.before = model.backbone, layers, queries, before

    def forward(
        self,
        tokens: Tensor,
        memory: Tensor,
        prefix: Tensor | None = None,
        position: Tensor | None = None,
        visible: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        cache = GrowingCache(memory, self.before)
        parts: list[LayerMemory | None] = [LayerMemory() if passed else None for passed in self.layers]
        first = None
        if prefix is not None and position is not None:
            parts = [LayerMemory(shared=(layer[0], layer[1])) for layer in prefix.unbind(0)]
            first = FirstToken(memory, position)  # the embedding is that of a token which has been said
        context = Context(memory, parts, self.queries, first, visible)
        hidden = self.backbone.answer(context, tokens[:, None], cache=cache)[:, 0]
        return hidden @ self.backbone.output_embedding.T, hidden, torch.stack(cache.grown)


@dataclass
class Part:
    """A part with an example of its arguments and the sizes of these that may change."""

    name: str
    module: nn.Module
    example: tuple[Tensor, ...]
    sizes: tuple[dict[int, Any], ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def program(self) -> ExportedProgram:
        """The part as a graph for any batch. Raises what torch raises where it cannot be one."""
        with as_defined():
            return export(self.module, self.example, dynamic_shapes=self.sizes)


@contextmanager
def as_defined() -> Iterator[None]:
    """Inside, everything is computed as it is defined, for any batch, and nothing is remembered.

    What stands in for a definition on one device looks at sizes, and what a model remembers without gradients
    it knows by its address; a graph has neither.
    """
    with definitions(), torch.enable_grad():
        yield


def make_parts(model: UFO, request: Request) -> tuple[Part, Part]:
    """Encoder and step for one task of a model in `eval` mode."""
    encoder = Encoder(model, request).eval()
    given = example_inputs(encoder, BATCH, 0)
    batch = Dim("batch", min=1)
    sizes: tuple[dict[int, Any], ...] = ({0: batch},)
    if len(given) > 1:
        length = Dim("prompt", min=4)  # three and fewer are special cases
        sizes = ({0: batch}, {0: batch, 1: length}, {0: batch, 1: length})
    with torch.no_grad():  # also fills what is remembered of this size with real tensors, not a trace's
        out = encoder(*given)
    outputs = OUTPUTS[: len(out)]
    names = ("images", "prompt", "visible")[: len(given)]
    return Part("encoder", encoder, given, sizes, names, outputs), _step(model, encoder, out)


def example_inputs(encoder: Encoder, batch: int, seed: int) -> tuple[Tensor, ...]:
    """Images of noise and, where each has a text of its own, the prompt for all of them."""
    side, generator = encoder.task.image_size, torch.Generator().manual_seed(seed)
    images = torch.randint(256, (batch, 3, side, side), generator=generator).to(torch.uint8)
    given = (images.to(encoder.ids.device),)
    if not encoder.task.needs_text:
        return given
    return (*given, encoder.ids.repeat(batch, 1), encoder.mask.repeat(batch, 1))


def _step(model: UFO, encoder: Encoder, out: tuple[Tensor, ...]) -> Part:
    _, logits, _, memory, *prefix = out
    queries, before = len(logits) // BATCH, memory.shape[4] - 1
    module = Step(model, _layers(model, encoder), queries, before).eval()
    with torch.no_grad():  # a second token: a length of one would be taken for a constant
        logits, _, memory = module(logits.argmax(-1), memory, *prefix)
    tokens, rows = logits.argmax(-1), cast(Any, Dim("rows", min=1))
    if not prefix:  # rows know nothing of each other, so any number of them will do
        tokens, memory = tokens[:BATCH], memory[:, :, :BATCH].contiguous()
        sizes: list[dict[int, Any]] = []
    else:
        batch = Dim("batch", min=1)
        rows = queries * batch if queries > 1 else batch
        length = {4: Dim("prefix", min=2)} if len(prefix) > 2 else {}
        every: list[dict[int, Any]] = [{2: batch, **length}, {0: rows}, {0: batch, 1: length.get(4)}]
        sizes = every[: len(prefix)]
    grows = {2: rows, 4: Dim("length", min=before + 1)}
    inputs = ("tokens", "memory", *OUTPUTS[4 : 4 + len(prefix)])
    return Part(
        "step",
        module,
        (tokens, memory, *prefix),
        ({0: rows}, grows, *sizes),
        inputs,
        ("logits", "hidden", "memory"),
    )


def _layers(model: UFO, encoder: Encoder) -> list[bool]:
    """Which layers answers pass: those of which a context keeps something."""
    images = example_inputs(encoder, 1, 0)[0]
    queries = None if encoder.queries is None else encoder.queries.map(lambda x: x.to(images.device))
    with torch.no_grad():
        context = model.backbone.encode(images, encoder.ids, encoder.mask, queries, encoder.task.causal_image)
    return [memory is not None for memory in context.memory]
