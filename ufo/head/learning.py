"""The losses of a batch: encode, answer as told, compare (paper section 3.5). Tensors in, tensors out.

Nothing here looks at a value, so that a GPU is not waited for and the whole pass can be recorded.
Shapes: `B` images, `M` computed tokens, `S` supervised ones, `P` retrieved masks, `m` learned ones, `K`
tokens of a mask, `C` width.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from ufo.backbones.base import Backbone
from ufo.head.losses import full_mask_losses, sampled_mask_losses, token_loss
from ufo.head.retrieval import retrieve_masks
from ufo.head.training_inputs import MaskTargets, TrainingInputs


class Rule(NamedTuple):
    """How the parts of a loss are made and weighed."""

    weights: Mapping[str, float]  # of the parts token, focal, dice; 1 where none is given
    mask_points: int  # sampled per mask; 0: all pixels


class Learned(NamedTuple):
    """What a batch gives."""

    losses: dict[str, Tensor]  # the weighted parts and their sum `loss`
    patches: int  # of all images


def learn(backbone: Backbone, batch: TrainingInputs, rule: Rule) -> Learned:
    """Teacher forcing: every token of an answer predicts the next; only those positions are computed."""
    device = backbone.device
    batch = batch.map(lambda x: x.to(device, non_blocking=True))
    prompt, mask, queries = batch.prompt, batch.prompt_mask, batch.queries
    context = backbone.encode(batch.images, prompt, mask, queries, causal=batch.causal)
    hidden = backbone.answer(context, batch.inputs, batch.packed)  # [M, C]
    if batch.supervised is not None:  # some tokens are only there for others to see
        hidden = hidden.index_select(0, batch.supervised)
    embedding = backbone.output_embedding
    parts = {"token": token_loss(hidden, batch.targets, embedding, count=batch.learned)}
    features = context.image_features
    if batch.masks is not None:
        parts |= _mask_losses(hidden, features, batch.masks, rule.mask_points)
    weighted = {name: value * rule.weights.get(name, 1.0) for name, value in parts.items()}
    total = reduce(torch.add, weighted.values())
    return Learned({"loss": total, **weighted}, features.shape[:-1].numel())


def _mask_losses(hidden: Tensor, features: Tensor, masks: MaskTargets, points: int) -> dict[str, Tensor]:
    """Of the states `[S, C]` that emit mask tokens among others, and image features `[B, H, W, C]`."""
    # without a mask an empty part of the features keeps every rank's graph the same
    logits = features[:0, ..., 0]
    if len(masks.true):
        embeddings = hidden.index_select(0, masks.emits).unflatten(0, (sum(masks.counts), -1))  # [P, K, C]
        logits = retrieve_masks(embeddings, features, masks.counts)
        logits = logits if masks.slots is None else logits.index_select(0, masks.slots)
    if not points:
        return full_mask_losses(logits, masks.true, masks.learned, masks.kept)
    return sampled_mask_losses(logits, masks.true, points, masks.learned, masks.kept)
