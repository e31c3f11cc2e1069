"""Checked guesses: the same answers as single steps, in fewer calls."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from mllm_models import make_backbone

from ufo.head.decoding import Decoded
from ufo.head.greedy import greedy
from ufo.head.guesses import Drafts
from ufo.head.strategy import Strategy

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
