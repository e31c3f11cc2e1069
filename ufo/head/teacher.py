"""Teacher forcing: written answers as tokens, and which of them the model learns to say (paper section 3.5).

An answer starts anew with a start token, or it continues the text of its prompt. Both are rows of tokens,
the first of which is only fed. Shapes: `R` rows, `T` tokens, `M` tokens that are computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ufo.backbones.base import Backbone
from ufo.tasks.base import Segments
from ufo.tokenizer import UFOTokenizer


class Written(NamedTuple):
    """One row: its tokens and whether each is supervised; empty without a loss."""

    ids: list[int]
    supervised: list[bool]


@dataclass
class TeacherForcing:
    """What an answer pass is fed and what it should say."""

    inputs: Tensor  # int64 [R, T]
    packed: Tensor  # int64 [M], flat positions that must be computed
    targets: Tensor  # int64, of the supervised ones among them
    supervised: Tensor | None  # which of the M those are; None: all


def write_answers(
    backbone: Backbone,
    tokenizer: UFOTokenizer,
    answers: Sequence[str | Segments | None],
    max_length: int | None,
) -> list[Written]:
    """Answers that start anew: `<start> answer <end>`, further turns in between."""
    turns: list[tuple[int, str, bool]] = []
    for row, answer in enumerate(answers):
        parts = [(answer, True)] if isinstance(answer, str) else answer or ()
        turns += [(row, text if said else backbone.turn(text), said) for text, said in parts]
    rows = [Written([], []) for _ in answers]
    encoded = tokenizer.encode([text for _, text, _ in turns], max_length)
    for (row, _, said), (start, *words, end) in zip(turns, encoded, strict=True):
        ids, supervised = rows[row]
        if not ids:
            ids.append(start), supervised.append(False)
        words += [end] * said
        ids += words
        supervised += [said] * len(words)
    return rows


def continue_prompts(
    backbone: Backbone,
    tokenizer,
    questions: Sequence[str],
    answers: Sequence[str | Segments | None],
    max_length: int,
) -> tuple[Tensor, Tensor, list[Written]]:
    """Prompts `[B, n]`, their mask, and answers that continue them and start with the prompt's last token."""
    conversations = [
        _conversation(backbone, tokenizer.end, question, answer)
        for question, answer in zip(questions, answers, strict=True)
    ]
    prompts, rows = [], []
    for (ids, said), answer in zip(tokenizer.encode_segments(conversations), answers, strict=True):
        begin = said.index(True) if any(said) else len(ids)
        prompts.append(ids[:begin])
        ids, said = ids[begin - 1 :], said[begin - 1 :]
        if isinstance(answer, str) and len(ids) > max_length + 1:
            ids, said = [*ids[:max_length], tokenizer.end_id], said[: max_length + 1]
        rows.append(Written(ids, said))
    return *tokenizer.pad_prompts(prompts), rows


def _conversation(backbone: Backbone, end: str, question: str, answer: str | Segments | None) -> Segments:
    """Prompt and answer as segments of one text, supervised ones with their end token."""
    prompt = backbone.chat(question)
    if not answer or isinstance(answer, str):
        # the model also learns to say how the prompt's last line ends
        head = prompt.removesuffix(backbone.opening)
        return [(head, False), (prompt[len(head) :] + answer + end, True)] if answer else [(head, False)]
    segments = [(prompt, False)]
    for text, said in answer:
        before, was_said = segments[-1]
        if said:  # a space before an answer belongs to its first word
            kept = before.rstrip(" ")
            segments[-1] = (kept, was_said)
            text = before[len(kept) :] + text + end
        segments.append((text if said else backbone.turn(text), said))
    return segments


def teacher_forcing(
    tokenizer: UFOTokenizer, rows: Sequence[Written], end_of_longest_only: bool = False
) -> TeacherForcing:
    """Rows of tokens as tensors; what follows a row's last supervised token is left out."""
    ids = tokenizer.pad([row.ids for row in rows])  # [R, T+1]
    said = torch.zeros_like(ids, dtype=torch.bool)
    for row, (_, supervised) in zip(said, rows, strict=True):
        row[: len(supervised)] = torch.tensor(supervised, dtype=torch.bool)
    if end_of_longest_only:
        lengths = torch.tensor([len(row.ids) for row in rows])
        shorter = (lengths > 0) & (lengths < ids.shape[1])
        said[shorter, lengths[shorter] - 1] = False
    said = said[:, 1:]
    computed = said.flip(1).cumsum(1).flip(1) > 0  # something supervised is still to come
    packed = computed.flatten().nonzero()[:, 0]
    supervised = said.flatten()[packed]
    return TeacherForcing(
        inputs=ids[:, :-1],
        packed=packed,
        targets=ids[:, 1:].flatten()[packed][supervised],
        supervised=None if bool(supervised.all()) else supervised.nonzero()[:, 0],
    )
