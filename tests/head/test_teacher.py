"""Which tokens are fed, computed and supervised."""

from __future__ import annotations

import pytest
import torch
from mllm_models import make_backbone

from ufo.backbones.quirks import Quirks
from ufo.head.teacher import continue_prompts, encode_training, teacher_forcing, write_answers
from ufo.tasks.base import Asked
from ufo.tokenizer import Encoded


@pytest.fixture(params=["internvl", "llava"])
def made(request):
    return make_backbone(request.param)


def words(tokenizer, row: Encoded, supervised: bool = True) -> str:
    ids = [i for i, said in zip(*row, strict=True) if said == supervised]
    names = tokenizer.vocab
    return " ".join(names[i] for i in ids)


def test_prompt_and_answer_join_as_one_text(made):
    backbone, tokenizer = made
    ids, mask, rows = continue_prompts(
        backbone, tokenizer, ["where is three", "what"], ["it is <MASK>.", "red"]
    )
    for i, (question, answer) in enumerate([("where is three", "it is <MASK>."), ("what", "red")]):
        text = backbone.chat(question) + answer + tokenizer.end
        [whole] = tokenizer.encode_segments([[(text, False)]])
        prompt = ids[i][mask[i]].tolist()
        assert prompt[-1] == rows[i].ids[0]  # fed, not part of the prefix
        assert prompt + rows[i].ids[1:] == whole.ids
    assert words(tokenizer, rows[0]).endswith(f"it is <MASK> . {tokenizer.end}")


def test_conversation_learns_answers_only(made):
    backbone, tokenizer = made
    turns = [("red", True), ("where is three", False), ("left of zero", True)]
    _, _, [row] = continue_prompts(backbone, tokenizer, ["<image>\nwhat"], [turns])
    assert words(tokenizer, row) == f"red {tokenizer.end} left of zero {tokenizer.end}"
    assert "where is three" in words(tokenizer, row, supervised=False)
    forced = teacher_forcing(tokenizer, [row])
    # the second question is computed, as the second answer sees it, but not learned
    assert len(forced.packed) == len(row.ids) - 1
    assert len(forced.targets) == sum(row.supervised) == len(forced.supervised)


def test_an_answer_is_learned_to_its_end(made):
    """A caption of more tokens than the task says at inference is not a shorter text with a wrong end."""
    backbone, tokenizer = made
    asked = Asked(["what"], answers=["red " * 50])
    _, _, forced = encode_training(backbone, tokenizer, asked, 10)
    [red] = tokenizer.encode(["red"])
    assert int(forced.targets.eq(red[1]).sum()) == 50 and forced.targets[-1] == tokenizer.end_id


def test_an_answer_that_no_memory_holds_keeps_its_end(made, monkeypatch):
    backbone, tokenizer = made
    monkeypatch.setattr(tokenizer, "max_prompt_length", 10)
    monkeypatch.setattr(tokenizer, "pad_prompts", lambda rows: (None, None))
    _, _, [row] = continue_prompts(backbone, tokenizer, ["what"], ["red " * 50])
    assert len(row.ids) == 11 and row.ids[-1] == tokenizer.end_id and row.supervised[-1]


def test_answers_of_queries_start_anew(made):
    backbone, tokenizer = made
    rows = write_answers(backbone, tokenizer, ["three,<MASK>", None, "background"], None)
    assert rows[0].ids[0] == tokenizer.start_id and rows[0].supervised == [False, True, True, True, True]
    assert rows[1].ids == []
    forced = teacher_forcing(tokenizer, rows)
    assert forced.packed.tolist() == [0, 1, 2, 3, 8, 9] and forced.supervised is None
    assert forced.targets.tolist() == [*rows[0].ids[1:], *rows[2].ids[1:]]


def test_end_of_the_longest_only(made):
    backbone, tokenizer = made
    rows = write_answers(backbone, tokenizer, ["three,<MASK>", None, "background"], None)
    ends = Quirks(end_of_longest_only=True).learned_ends(torch.tensor([len(row.ids) for row in rows]))
    forced = teacher_forcing(tokenizer, rows, ends)
    assert forced.packed.tolist() == [0, 1, 2, 3, 8]
    assert forced.targets.tolist() == [*rows[0].ids[1:], rows[2].ids[1]]


def test_nothing_to_learn(made):
    forced = teacher_forcing(made[1], [Encoded([], []), Encoded([], [])])
    assert len(forced.packed) == len(forced.targets) == 0
