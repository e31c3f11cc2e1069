"""Decoding: all queries of all images at once, finished ones leave the batch (paper section 3.4).

Shapes: `R` answer rows (images x queries), `T` answer tokens, `C` width, `V` vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ufo.backbones.base import AnswerCache, Backbone, Context
from ufo.head.beam import Step, beam_search
from ufo.tasks.base import Task
from ufo.tokenizer import UFOTokenizer


@dataclass
class Decoded:
    """Generated tokens, without the start token; after a row's end everything is `end_id`."""

    ids: Tensor  # int64 [R, T]
    first_scores: Tensor  # float32 [R], probability of the first token
    features: Tensor  # [R, T, C], the hidden state that emitted each token


def decode(backbone: Backbone, context: Context, tokenizer: UFOTokenizer, task: Task) -> Decoded:
    """Decode as the task says: greedily, or with beam search where `num_beams` is more than 1."""
    if task.num_beams <= 1:
        return greedy(backbone, context, tokenizer.start_id, tokenizer.end_id, task.max_length)
    best = beam_search(
        answer_step(backbone, context, task.max_length),
        context.num_rows,
        start_id=tokenizer.start_id,
        end_id=tokenizer.end_id,
        max_length=task.max_length,
        num_beams=task.num_beams,
        temperature=task.temperature,
        length_penalty=task.length_penalty,
        device=backbone.device,
    )
    return Decoded(best.ids, best.scores[:, 0], best.features)


def answer_step(backbone: Backbone, context: Context, max_length: int) -> Step:
    """What beam search calls to run one token of each row; rows start as those of the context."""
    cache, rows = AnswerCache(max_length), context.num_rows

    def step(tokens: Tensor, parents: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal context, rows
        if cache.length:
            cache.select(parents)
        # all rows of a query share its memory: where no query left, changing places changes nothing
        if len(parents) != rows:
            context, rows = context.select(parents), len(parents)
        hidden = backbone.answer(context, tokens[:, None], cache=cache)[:, -1]  # [R, C]
        return F.linear(hidden, backbone.output_embedding), hidden

    return step


def greedy(backbone: Backbone, context: Context, start_id: int, end_id: int, max_length: int) -> Decoded:
    """The likeliest token at every step, until each row has ended or holds `max_length` tokens."""
    rows, device = context.num_rows, backbone.device
    embedding = backbone.output_embedding
    live = torch.arange(rows, device=device)
    token = torch.full((rows, 1), start_id, device=device)
    ids = torch.full((rows, max_length), end_id, device=device)
    cache = AnswerCache(max_length)
    features = first = None
    for step in range(max_length):
        hidden = backbone.answer(context, token, cache=cache)[:, -1]  # [live, C]
        logits = F.linear(hidden, embedding).float()
        chosen = logits.argmax(-1)
        if features is None:
            features = hidden.new_zeros(rows, max_length, hidden.shape[-1])
            first = (logits.amax(-1) - logits.logsumexp(-1)).exp()
        ids[live, step] = chosen
        features[live, step] = hidden
        going = (chosen != end_id).nonzero()[:, 0]  # the one synchronisation of a step
        if not len(going):
            break
        token = chosen[:, None]
        if len(going) < len(chosen):
            live, token = live[going], token[going]
            context = context.select(going)
            cache.select(going)
    return Decoded(ids, first, features)
