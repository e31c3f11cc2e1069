"""Teacher forcing: written answers as tokens, and which of them the model learns to say (paper section 3.5).

An answer starts anew with a start token, or it continues the text of its prompt. Both are rows of tokens,
the first of which is only fed. Shapes: `B` images, `R` rows, `T` tokens, `M` computed, `n` prompt tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ufo.backbones.base import Backbone
from ufo.tasks.base import Answer, Asked, Task
from ufo.tokenizer import Encoded, Tokenizer, pad_rows
from ufo.types import Segment

log = logging.getLogger(__name__)


@dataclass
class TeacherForcing:
    """What an answer pass is fed and what it should say."""

    inputs: Tensor  # int64 [R, T]
    packed: Tensor  # int64 [M], flat positions that must be computed
    targets: Tensor  # int64, of the supervised ones among them
    supervised: Tensor | None  # which of the M those are; None: all


def encode_prompts(
    backbone: Backbone, tokenizer: Tokenizer, questions: Sequence[str], continued: bool = False
) -> tuple[Tensor, Tensor]:
    """Questions in the backbone's chat format as tokens `[B or 1, n]`, and which of them may be seen.

    `continued`: an answer goes on where the prompt's text ends.
    """
    prompts = [backbone.chat(question) for question in questions]
    return tokenizer.encode_prompts([backbone.quirks.asked(p) for p in prompts] if continued else prompts)


def encode_training(
    backbone: Backbone, tokenizer: Tokenizer, asked: Asked, max_length: int | None
) -> tuple[Tensor, Tensor, TeacherForcing]:
    """Prompts `[B or 1, n]`, their mask, and the answers to them as they are fed and learned.

    An answer that starts anew and belongs to no query has at most `max_length` tokens, if that is given.
    Others are as long as they are: one that continues a prompt is learned to its end, whatever the task may
    say at inference.
    """
    if asked.queries is None and backbone.answers_continue_prompt:
        prompts, mask, rows = continue_prompts(backbone, tokenizer, asked.prompts, asked.answers)
        return prompts, mask, teacher_forcing(tokenizer, rows)
    prompts, mask = encode_prompts(backbone, tokenizer, asked.prompts)
    if asked.queries is None:
        rows = write_answers(backbone, tokenizer, asked.answers, max_length)
        return prompts, mask, teacher_forcing(tokenizer, rows)
    rows = write_answers(backbone, tokenizer, asked.answers, None)
    learned_ends = backbone.quirks.learned_ends(torch.tensor([len(row.ids) for row in rows]))
    return prompts, mask, teacher_forcing(tokenizer, rows, learned_ends)


def write_answers(
    backbone: Backbone, tokenizer: Tokenizer, answers: Sequence[Answer], max_length: int | None
) -> list[Encoded]:
    """Answers that start anew: `<start> answer <end>`, further questions in between."""
    parts: list[tuple[int, str, bool]] = []  # row, text, whether it is learned
    for number, answer in enumerate(answers):
        segments = [(answer, True)] if isinstance(answer, str) else answer or ()
        parts += [
            (number, text if learned else backbone.follow_up(text), learned) for text, learned in segments
        ]
    rows = [Encoded([], []) for _ in answers]
    texts = list(dict.fromkeys(text for _, text, _ in parts))  # most queries say the same word
    tokens = dict(zip(texts, tokenizer.encode(texts, max_length), strict=True))
    for number, text, learned in parts:
        start, *words, end = tokens[text]
        ids, supervised = rows[number]
        if not ids:
            ids.append(start)
            supervised.append(False)
        words += [end] * learned
        ids += words
        supervised += [learned] * len(words)
    return rows


def say_cut(backbone: Backbone, tokenizer: Tokenizer, task: Task, asked: Asked) -> None:
    """Warn where answers of a batch are learned without their end."""
    if asked.queries is not None or not task.cuts_answers or backbone.answers_continue_prompt:
        return
    texts = [answer for answer in asked.answers if isinstance(answer, str)]
    longest = max(map(len, tokenizer.encode(texts)), default=0)
    if longest > task.max_length:
        log.warning(
            "task '%s': answers are cut after tasks.%s.max_length=%d tokens, start and end included; the "
            "longest of the first batch has %d",
            *(task.name, task.name, task.max_length, longest),
        )


def continue_prompts(
    backbone: Backbone,
    tokenizer: Tokenizer,
    questions: Sequence[str],
    answers: Sequence[Answer],
) -> tuple[Tensor, Tensor, list[Encoded]]:
    """Prompts `[B, n]`, their mask, and answers that continue them and start with the prompt's last token.

    Only an answer longer than the longest prompt is cut, as no memory would hold it.
    """
    longest = tokenizer.max_prompt_length
    conversations = [
        _conversation(backbone, tokenizer.end, question, answer)
        for question, answer in zip(questions, answers, strict=True)
    ]
    prompts, rows = [], []
    for (ids, learned), answer in zip(tokenizer.encode_segments(conversations), answers, strict=True):
        begin = learned.index(True) if any(learned) else len(ids)
        prompts.append(ids[:begin])
        ids, learned = ids[begin - 1 :], learned[begin - 1 :]
        if isinstance(answer, str) and len(ids) > longest + 1:
            ids, learned = [*ids[:longest], tokenizer.end_id], learned[: longest + 1]
        rows.append(Encoded(ids, learned))
    return *tokenizer.pad_prompts(prompts), rows


def _conversation(backbone: Backbone, end: str, question: str, answer: Answer) -> list[Segment]:
    """Prompt and answer as segments of one text, supervised ones with their end token."""
    prompt = backbone.chat(question)
    head = prompt.removesuffix(backbone.learned_prompt_end)
    if not answer:
        return [(head, False)]
    if isinstance(answer, str):
        return [(head, False), (prompt[len(head) :] + answer + end, True)]
    segments = [(prompt, False)]
    for text, learned in answer:
        before, was_learned = segments[-1]
        if learned:  # a space before an answer belongs to its first word
            kept = before.rstrip(" ")
            segments[-1] = (kept, was_learned)
            text = before[len(kept) :] + text + end
        segments.append((text if learned else backbone.follow_up(text), learned))
    return segments


def teacher_forcing(
    tokenizer: Tokenizer, rows: Sequence[Encoded], learned_ends: Tensor | None = None
) -> TeacherForcing:
    """Rows of tokens as tensors; what follows a row's last supervised token is left out.

    `learned_ends` bool `[R]` says which rows learn their last token; None: all.
    """
    ids = tokenizer.pad([row.ids for row in rows])  # [R, T+1]
    learned = pad_rows([row.supervised for row in rows], False, ids.shape[1]).bool()
    if learned_ends is not None:
        last = torch.tensor([len(row.ids) - 1 for row in rows])
        learned &= learned_ends[:, None] | (torch.arange(ids.shape[1]) != last[:, None])
    learned = learned[:, 1:]
    computed = learned.flip(1).cumsum(1).flip(1) > 0  # something supervised is still to come
    packed = computed.flatten().nonzero()[:, 0]
    supervised = learned.flatten()[packed]
    return TeacherForcing(
        inputs=ids[:, :-1],
        packed=packed,
        targets=ids[:, 1:].flatten()[packed][supervised],
        supervised=None if bool(supervised.all()) else supervised.nonzero()[:, 0],
    )
