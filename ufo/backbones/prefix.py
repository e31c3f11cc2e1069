"""The tokens before the answers: prompt and image in one sequence, and what a decoder layer does with it.

See docs/published_system.md#prefix.
Shapes: `B` images, `b` prompts (1 or B), `I` image tokens, `N` prefix tokens, `R` answer rows, `C` width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ufo.backbones.context import AnswerCache, Context
from ufo.backbones.layer_pass import lengths
from ufo.backbones.prefix_attention import AnswerPass, PrefixPass


class ImageTokens(NamedTuple):
    """What a vision tower gives the language model, each `[B, I, C]`."""

    first: Tensor  # in the place of embeddings
    added: tuple[Tensor, ...] = ()  # the i-th is added behind decoder layer i


def image_part(x: Tensor, inside: Tensor, count: int) -> Tensor:
    """The image tokens `[B, I, C]` of a prefix `[B, N, C]`."""
    first = inside.int().argmax(1, keepdim=True)  # [b, 1]
    index = first + torch.arange(count, device=x.device)
    return x.gather(1, index[..., None].expand(x.shape[0], -1, x.shape[-1]))


def at_image(image: Tensor, inside: Tensor, otherwise: Tensor | float) -> Tensor:
    """Image tokens `[B, I, C]` at their places `inside [b, N]` of a prefix: `[B, N, C]`."""
    first = inside.int().argmax(1, keepdim=True)  # [b, 1]
    number = torch.arange(inside.shape[1], device=image.device) - first
    number = number.clamp(0, image.shape[1] - 1)[..., None].expand(image.shape[0], -1, image.shape[-1])
    return torch.where(inside[..., None], image.gather(1, number), otherwise)


def prefix_mask(inside: Tensor, visible: Tensor, causal: bool) -> Tensor:
    """What a prefix token may see: what came before and, inside the image, all of it. bool `[b, 1, N, N]`."""
    at = torch.arange(inside.shape[1], device=inside.device)
    allowed = (at[:, None] >= at)[None]
    if not causal:
        allowed = allowed | (inside[:, :, None] & inside[:, None])
    return (allowed & visible[:, None])[:, None]


@lengths(x=(0, 1), mask=(0, 2, 3), rope=(-3, -2))
def prefix_layer(
    layer: nn.Module, x: Tensor, mask: Tensor | None, rope: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """A decoder layer on the prefix `[B, N, C]`; its result, and its keys and values for the answers."""
    kept = PrefixPass()
    x = layer(x, attention_mask=mask, position_embeddings=rope, prefix=kept)
    assert kept.keys is not None and kept.values is not None, "the layer's attention keeps them"
    return x, kept.keys, kept.values


@lengths(
    **{"context.memory.0.shared": (0, 2), "context.visible": (0, 1)},
    **{"x": (0, 1), "rope": (-3, -2), "ids": (0, 1), "packed": (0,)},
)
def answer_layer(
    layer: nn.Module,
    index: int,
    context: Context,
    x: Tensor,
    rope: Any,
    ids: Tensor,
    packed: Tensor | None,
    cache: AnswerCache | None,
) -> Tensor:
    """A decoder layer on answers to `ids [R, T]`: `[R, T, C]`, or their packed tokens `[1, M, C]`."""
    now = AnswerPass(index, context, (ids.shape[0], ids.shape[1]), packed, cache)
    return layer(x, attention_mask=None, position_embeddings=rope, prefix=now)


def add_local(x: Tensor, local: Tensor, first: tuple[Tensor, Tensor] | None) -> Tensor:
    """Add each row's local image prompt `[R, C]` to its first token, in `[R, T, C]` or packed `[1, M, C]`."""
    local = local.to(x.dtype)
    if first is None:
        return torch.cat([x[:, :1] + local[:, None], x[:, 1:]], 1)
    is_first, row = first
    return x + torch.where(is_first, local[row], 0)
