"""Attention of answers to a prefix that many of them share, through transformers' attention interface.

A layer hands its queries, keys and values to the function registered here; `prefix=` says which of two passes
it is. Answers attend to the prefix (the same keys for all queries of an image, never copied) and to their own
tokens; the two are merged exactly, by the logarithms of their normalisers. Answers have no
score of each other.

Shapes: `B` images, `R` rows, `T` new tokens, `S` tokens so far, `N` prefix, `h` heads, `K` of keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ufo.backbones.attention import attend
from ufo.backbones.context import AnswerCache, Context
from ufo.ops.faster import faster

NAME = "ufo_prefix"
# of one layer without gradients: hundreds of queries fit any memory, on a CPU a part fits its cache
SCORES_AT_A_TIME, SCORES_ON_CPU = 2**26, 2**19


@dataclass
class PrefixPass:
    """Keeps what a layer's prefix pass computes for its answers: `[B, K, N, d]` each."""

    keys: Tensor | None = None
    values: Tensor | None = None


@dataclass
class AnswerPass:
    """What an answer pass needs to know in one layer."""

    layer: int
    context: Context
    shape: tuple[int, int]  # (R, T)
    packed: Tensor | None = None  # int64 [M]: the layer's tokens are these of the R*T
    cache: AnswerCache | None = None


def prefix_attention(
    module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    prefix: PrefixPass | AnswerPass | None = None,
    **kwargs,
) -> tuple[Tensor, None]:
    """The registered function: query `[b, h, n, d]`, key and value `[b, K, n, d]` -> `[b, n, h, d]`."""
    if isinstance(prefix, AnswerPass):
        return answer_attention(query, key, value, scaling, prefix), None
    if isinstance(prefix, PrefixPass):
        prefix.keys, prefix.values = key, value
    return _attend_prefix(
        query, key, value, attention_mask, module=module, scaling=scaling, dropout=dropout, **kwargs
    )


def _own_products(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    scaling: float,
    dropout: float,
    **kwargs,
) -> Any:
    """On a CPU with gradients, where the fused kernel's backward is slow."""
    if dropout or kwargs.get("is_causal"):
        return NotImplemented
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, 1) if groups > 1 else x for x in (key, value))
    query, key = query.to(value.dtype), key.to(value.dtype)  # as autocast does with the fused kernel
    return attend(query, key, value, mask, scaling).transpose(1, 2), None


@faster(_own_products, on_cpu=True, gradients=True)
def _attend_prefix(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, module: Any, **kwargs
) -> tuple[Tensor, None]:
    return sdpa_attention_forward(module, query, key, value, mask, **kwargs)


AttentionInterface.register(NAME, prefix_attention)


def answer_attention(query: Tensor, key: Tensor, value: Tensor, scaling: float, now: AnswerPass) -> Tensor:
    """Answers' attention: to the shared prefix and to their own tokens so far."""
    (rows, length), packed = now.shape, now.packed
    if packed is not None:
        query, key, value = (_unpack(x, packed, rows, length) for x in (query, key, value))
    if now.cache is not None:
        key, value = now.cache.extend(now.layer, key, value, len(now.context.memory))
    heads = key.shape[1]
    query = query.unflatten(1, (heads, -1)) * scaling  # [R, K, g, T, d]
    context = now.context
    memory = context.memory[now.layer]
    assert memory is not None and memory.shared is not None, "every layer keeps the prefix for the answers"
    own, own_log = _attend_own(query, key, value)
    shared, shared_log = _attend_shared(query, memory.shared, context)
    weight = torch.sigmoid(own_log - shared_log)[..., None]  # share of the row's own tokens
    out = torch.lerp(shared.float(), own.float(), weight).to(value.dtype)  # [R, K, g, T, d]
    out = out.permute(0, 3, 1, 2, 4).flatten(2, 3)  # [R, T, h, d]
    return out if packed is None else out.flatten(0, 1)[packed][None]


def _unpack(x: Tensor, packed: Tensor, rows: int, length: int) -> Tensor:
    """Packed tokens `[1, h, M, d]` in their rows: `[R, h, T, d]`."""
    x = x[0].transpose(0, 1)  # [M, h, d]
    x = x.new_zeros(rows * length, *x.shape[1:]).index_copy(0, packed, x)
    return x.unflatten(0, (rows, length)).transpose(1, 2)


def _softmax(scores: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Scores `[..., n, N]` over value `[..., N, d]`: the attended values and the log of the normaliser."""
    scores = scores.float()
    largest = scores.detach().amax(-1, keepdim=True)
    weights = (scores - largest).exp()
    total = weights.sum(-1, keepdim=True)
    if value.dtype == torch.float16:  # thousands of values exceed 65504 before they are divided
        attended = (weights / total).to(value.dtype) @ value
    else:
        attended = (weights.to(value.dtype) @ value) / total.to(value.dtype)
    return attended, (largest + total.log())[..., 0]


def _attend_own(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Causal attention of query `[R, K, g, T, d]` to its row's key, value `[R, K, S, d]`."""
    groups, length, total = query.shape[2], query.shape[3], key.shape[2]
    scores = query.flatten(2, 3) @ key.transpose(2, 3)  # [R, K, g*T, S]
    later = torch.ones(length, total, dtype=torch.bool, device=query.device).triu(total - length + 1)
    scores = scores.unflatten(2, (groups, length)).masked_fill(later, -torch.inf)
    out, log = _softmax(scores.flatten(2, 3), value)
    return out.unflatten(2, (groups, length)), log.unflatten(2, (groups, length))


def _attend_shared(query: Tensor, memory: tuple[Tensor, Tensor], context: Context) -> tuple[Tensor, Tensor]:
    """Attention of query `[R, K, g, T, d]` to the keys and values of its image, `[B, K, N, d]`.

    All queries of an image form one matrix, so its keys are read once however many queries there are.
    """
    keys, values = memory
    batch, (groups, length), rows = keys.shape[0], query.shape[2:4], context.rows
    if rows is None:  # an exported graph takes a single image only where it knows how many rows are one's
        whole = batch * context.num_queries == query.shape[0]  # recorded answers have rows that pad
        by_image = query.unflatten(0, (batch, context.num_queries if whole else -1))  # [B, Q, K, g, T, d]
    else:
        place = rows.image * rows.slots + rows.slot
        by_image = query.new_zeros(batch * rows.slots, *query.shape[1:]).index_copy(0, place, query)
        by_image = by_image.unflatten(0, (batch, -1))
    slots = by_image.shape[1]
    flat = by_image.transpose(1, 2).flatten(2, 4)  # [B, K, Q*g*T, d]
    hidden = None if context.visible is None else ~context.visible[:, None, None]
    out, log = _attend_matrix(flat, keys, values, hidden)
    out = out.unflatten(2, (slots, groups, length)).transpose(1, 2).flatten(0, 1)
    log = log.unflatten(2, (slots, groups, length)).transpose(1, 2).flatten(0, 1)
    return (out, log) if rows is None else (out[place], log[place])


def _fewer_at_a_time(query: Tensor, keys: Tensor, values: Tensor, hidden: Tensor | None) -> Any:
    return _attend_parts(query, keys, values, hidden, SCORES_ON_CPU)


@faster(_fewer_at_a_time, on_cpu=True)
def _attend_matrix(
    query: Tensor, keys: Tensor, values: Tensor, hidden: Tensor | None
) -> tuple[Tensor, Tensor]:
    return _attend_parts(query, keys, values, hidden, SCORES_AT_A_TIME)


def _attend_parts(
    query: Tensor, keys: Tensor, values: Tensor, hidden: Tensor | None, limit: int
) -> tuple[Tensor, Tensor]:
    """Query `[B, K, n, d]`, `hidden [B, 1, 1, N]`; without gradients in parts of `limit` scores."""

    def attend(part: Tensor) -> tuple[Tensor, Tensor]:
        scores = part @ keys.transpose(2, 3)  # [B, K, n, N]
        return _softmax(scores if hidden is None else scores.masked_fill(hidden, -torch.inf), values)

    per_row = keys.shape[0] * keys.shape[1] * keys.shape[2]
    at_a_time = max(limit // max(per_row, 1), 1)
    if torch.is_grad_enabled() or query.shape[2] <= at_a_time:
        return attend(query)
    parts = [attend(part) for part in query.split(at_a_time, 2)]
    return torch.cat([p[0] for p in parts], 2), torch.cat([p[1] for p in parts], 2)
