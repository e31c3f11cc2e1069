"""Constrained decoding with sentencepiece models, where a text has other tokens alone than behind another."""

from __future__ import annotations

from dataclasses import replace

import mllm_models
import pytest
import torch
from tokenizer_folders import TEXT, train_pieces, write_internvl, write_llava

from ufo.head.grammar import DEAD, START
from ufo.head.guesses import Drafts
from ufo.head.strategy import choose_strategy
from ufo.head.teacher import continue_prompts, encode_prompts, write_answers
from ufo.hf_tokenizer import HFTokenizer
from ufo.tasks.wording import WORDINGS

CLASSES = ("person", "red dog", "\u96c5 traffic light")  # the last one begins with bytes
BOXES = ("<box>1,24,448,896</box>", "<box>10,5,0,6</box>")
# the published models keep blanks and line breaks as they are
EXACT = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}


@pytest.fixture(scope="module", params=["internvl", "llava"])
def made(request, tmp_path_factory):
    """A backbone, and a tokenizer in the layout of its published ones."""
    folder, family = tmp_path_factory.mktemp("pieces"), request.param
    model = train_pieces(folder, family == "llava", f"{TEXT} None Sure It", **EXACT)
    settings = {"end": "<|im_end|>", "added": ["<MASK>"]}
    if family == "internvl":
        write_internvl(folder, model)
    else:
        write_llava(folder, model)
        settings = {"pad": "<pad>", "added": ["<MASK>", "<box>", "</box>", "<im_start>", "<im_end>"]}
    return mllm_models.make_backbone(family)[0], HFTokenizer.from_pretrained(folder, **settings)


def follows(grammar, ids: list[int]) -> bool:
    """Whether an answer is well-formed from its first token to its end."""
    return bool((grammar.follow(torch.tensor([START]), torch.tensor([ids])) != DEAD).all())


@pytest.mark.parametrize("name", ["detection", "instance_segmentation"])
def test_what_queries_are_taught_to_say_is_well_formed(name, made, make_tiny_task):
    backbone, tokenizer = made
    changes = {"num_bins": 896} if name == "detection" else {}
    task = make_tiny_task(name, constrained=True, **changes).worded(WORDINGS[backbone.wording])
    grammar = choose_strategy(backbone, tokenizer, task, CLASSES).grammar
    ends = BOXES if name == "detection" else ["<MASK>" * task.mask_tokens]
    answers = ["background", *(f"{label},{end}" for label in CLASSES for end in ends)]
    for row in write_answers(backbone, tokenizer, answers, None):
        assert follows(grammar, row.ids[1:])


def learned(made, question: str, answer: str) -> list[int]:
    """What training teaches behind the tokens that are fed before an answer at inference."""
    backbone, tokenizer = made
    asked, _ = encode_prompts(backbone, tokenizer, [question], continued=True)
    before, _, [row] = continue_prompts(backbone, tokenizer, [question], [answer])
    prompt, whole = asked[0].tolist(), before[0].tolist() + row.ids[1:]
    assert whole[: len(prompt)] == prompt
    return whole[len(prompt) :]


@pytest.mark.parametrize("count", [1, 2])
def test_what_continues_a_prompt_is_well_formed(count, made, make_tiny_task):
    backbone, tokenizer = made
    task = make_tiny_task("grounding", num_bins=896, constrained=True, max_objects=count, max_length=60)
    task = task.worded(WORDINGS[backbone.wording])
    grammar = choose_strategy(backbone, tokenizer, task).grammar
    for number in range(1, count + 1):
        assert follows(grammar, learned(made, task.prompt((), "person"), ";".join(BOXES[:number])))


@pytest.mark.parametrize("name", ["grounding", "referring_segmentation"])
def test_guesses_and_refusals_are_the_tokens_that_are_taught(name, made, make_tiny_task):
    """A blank that ended LLaVA's prompt was fed alone and learned as a part of the answer's first word."""
    backbone, tokenizer = made
    first = {"internvl": "None", "llava": "\u2581None"}[backbone.wording]
    assert tokenizer.vocab[learned(made, "who", "None.")[0]] == first
    task = make_tiny_task(name, nothing=True).worded(WORDINGS[backbone.wording])
    strategy, question = choose_strategy(backbone, tokenizer, task), task.prompt((), "person")
    assert strategy.refusal == learned(made, question, task.wording.nothing)[0]
    drafts = [guess.table[guess.lengths > 0] for guess in strategy.guesses if isinstance(guess, Drafts)]
    for table in drafts:
        for row, text in zip(table.tolist(), task.drafts, strict=True):
            taught = learned(made, question, text)
            assert [t for t in row if t >= 0] == taught[:-1] and taught[-1] == tokenizer.end_id


def test_published_prompts_keep_their_blank(made):
    backbone, tokenizer = made
    plain, blank = (
        encode_prompts(backbone, tokenizer, ["where is person"], continued=continued)[0].shape[1]
        for continued in (True, False)
    )
    assert blank - plain in (0, 1)
    backbone.quirks = replace(backbone.quirks, blank_after_prompt=True)
    kept = encode_prompts(backbone, tokenizer, ["where is person"], continued=True)[0].shape[1]
    backbone.quirks = replace(backbone.quirks, blank_after_prompt=False)
    assert kept == blank
