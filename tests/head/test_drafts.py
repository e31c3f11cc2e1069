"""Checked guesses: the same answers as single steps, in fewer calls."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from mllm_models import make_backbone
from tiny_mllm import make_mllm

from ufo.head.decoding import Decoded
from ufo.head.greedy import greedy
from ufo.head.guesses import Drafts, Separators
from ufo.head.strategy import Strategy, choose_strategy
from ufo.head.teacher import continue_prompts, write_answers

LENGTH = 12


@pytest.fixture(scope="module")
def made():
    backbone, tokenizer = make_backbone("internvl")
    ids, mask = tokenizer.encode_prompts([backbone.chat(q) for q in ("the red three", "a", "zero", "digit")])
    images = torch.randint(256, (4, 3, 16, 16), generator=torch.Generator().manual_seed(0)).byte()
    with torch.no_grad():
        context = backbone.encode(images, ids, mask)
        expected = greedy(backbone, context, Strategy(tokenizer.start_id, tokenizer.end_id, LENGTH))
    return backbone, tokenizer, context, expected


def follow(backbone, context, tokenizer, drafts: list[list[int]]) -> tuple[Decoded, int]:
    """What is decoded with these drafts, and in how many calls."""
    strategy = Strategy(tokenizer.start_id, tokenizer.end_id, LENGTH, guesses=(Drafts(drafts),))
    with patch.object(backbone, "answer", wraps=backbone.answer) as answer:
        found = greedy(backbone, context, strategy)
    return found, answer.call_count


def variants(rows: list[list[int]]) -> dict[str, list[list[int]]]:
    """Guesses that are right, wrong from some token on, too short, too long, or none."""
    wrong = [[*row[:i], row[i] + 1, *row[i + 1 :]] for i, row in enumerate(rows)]
    return {
        "right": rows,
        "wrong": wrong,
        "wrong and right": wrong + rows,
        "short": [row[:3] for row in rows],
        "long": [row * 3 for row in rows],
        "none": [],
        "empty": [[]],
    }


@torch.no_grad()
@pytest.mark.parametrize("kind", list(variants([])))
def test_same_as_single_steps(made, kind):
    backbone, tokenizer, context, expected = made
    rows = [[t for t in row if t != tokenizer.end_id] + [tokenizer.end_id] for row in expected.ids.tolist()]
    drafts = variants(rows)[kind]
    found, _ = follow(backbone, context, tokenizer, drafts)
    assert torch.equal(found.ids, expected.ids)
    torch.testing.assert_close(found.first_scores, expected.first_scores)
    torch.testing.assert_close(found.features, expected.features, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_templates_that_share_their_beginning_take_few_calls(made):
    """Six templates, the right one last: every call moves past where the others part."""
    backbone, tokenizer, context, expected = made
    context = context.select(torch.tensor([0]))
    row = expected.ids[0].tolist()
    others = [[*row[:i], row[i] + 1, 7, 7] for i in range(1, 6)]
    _, calls = follow(backbone, context, tokenizer, [[*row, tokenizer.end_id]])
    assert calls == 1
    last, calls = follow(backbone, context, tokenizer, [*others, [*row, tokenizer.end_id]])
    assert torch.equal(last.ids[0], expected.ids[0]) and calls <= 6


ONE_BOX = [21, 5, 22, 5, 23, 24, 5, 25]  # of numbers 21 to 25, of which the third has two tokens


class Scripted:
    """A backbone that says the same answer whatever it is fed, and counts its calls."""

    def __init__(self, answer: list[int], rows: int):
        self.answer_ids, self.rows, self.fed = answer, rows, []
        self.output_embedding, self.device = torch.eye(30), torch.device("cpu")

    def answer(self, context, ids, packed=None, cache=None):
        begin, (rows, length) = cache.length, ids.shape
        self.fed.append(length)
        cache.extend(0, *[torch.zeros(rows, 1, length, 1)] * 2)
        cache.length += length
        said = [*self.answer_ids, *[4] * 20][begin : begin + length]
        return self.output_embedding[torch.tensor(said)].expand(rows, -1, -1) * 9


class OfRows:
    def __init__(self, rows: int):
        self.num_rows, self.num_queries = rows, 1

    def select(self, rows):
        return OfRows(len(rows))


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("before, behind", [([], []), ([7], [6]), ([7, 8], [6, 9])])
def test_what_separates_numbers_is_fed_with_them(rows, before, behind):
    """Of one row; several would part where one says a number of two tokens. All begin as a box does."""
    answer, digits = [*before, *ONE_BOX, *behind, 4], torch.arange(30) > 20
    found, calls = [], []
    for guesses in ((), (Separators(digits, [5], behind, before),)):
        scripted = Scripted(answer, rows)
        found.append(greedy(scripted, OfRows(rows), Strategy(1, 4, LENGTH + 2, guesses=guesses)))
        calls.append(len(scripted.fed))
    assert torch.equal(found[0].ids, found[1].ids) and found[0].ids[0].tolist()[: len(answer)] == answer
    assert torch.equal(found[0].features, found[1].features)
    # the three commas and the end of the box are right guesses; that behind the first part of 23 24 is not
    assert calls[0] - calls[1] == len(before) + (0 if rows == 2 else 3 + len(behind))


@torch.no_grad()
def test_a_box_is_said_in_fewer_calls(make_model, make_batch):
    """By a model that learned to say one; a picture alone, as together with another one."""
    model, batch = make_model(seed=1).train(), make_batch("grounding", (1, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
    for _ in range(30):
        with torch.enable_grad():
            model.loss(batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    alone = replace(batch, images=batch.images[:1], texts=batch.texts[:1], sizes=batch.sizes[:1])
    answers = []
    for one in (batch, alone):
        with patch.object(model.backbone, "answer", wraps=model.backbone.answer) as answer:
            predicted = model.predict_batch(one)[0]
        answers.append((answer.call_count, predicted.text))
    (together, text), (calls, same) = answers
    assert text == same and text.count(",") == 3
    assert calls <= together - 3


@pytest.mark.parametrize("family", ["ufo_vit", "internvl", "llava"])
def test_boxes_are_written_with_what_is_guessed(family, make_model):
    """In the tokens of each family, as answers are trained."""
    model = make_model() if family == "ufo_vit" else make_mllm(family, tasks=["grounding"])
    backbone, tokenizer, task = model.backbone, model.tokenizer, model.task("grounding")
    text = task.wording.write_box([1, 2, 3, 4])
    if backbone.answers_continue_prompt:
        _, _, [(ids, learned)] = continue_prompts(backbone, tokenizer, [task.prompt((), "the owl")], [text])
    else:
        [(ids, learned)] = write_answers(backbone, tokenizer, [text], None)
    said = torch.tensor([[token for token, is_said in zip(ids, learned, strict=True) if is_said]])
    (guesses,) = choose_strategy(backbone, tokenizer, task).guesses
    if said[0, 0] == tokenizer.encode([backbone.learned_prompt_end])[0][1]:  # LLaVA learns that as well
        said = said[:, 1:]
    assert said[0, : len(guesses.first)].tolist() == list(guesses.first)
    assert bool(guesses.first) == bool(task.wording.box[0])
    right = 0
    for length in range(1, said.shape[1]):
        tokens, count = guesses.after(said, torch.tensor([length]))
        here = said[0, length : length + int(count)]
        right += bool(len(here)) and torch.equal(tokens[0], here)
    assert right == 3 + bool(task.wording.box[1])
