"""Constrained decoding with sentencepiece models, where a text has other tokens alone than behind another."""

from __future__ import annotations

import itertools

import mllm_models
import pytest
import torch
from tokenizer_folders import train_pieces, write_internvl, write_llava

from ufo.head.grammar import DEAD, START
from ufo.head.strategy import choose_strategy
from ufo.head.teacher import continue_prompts, encode_prompts, write_answers
from ufo.hf_tokenizer import HFTokenizer
from ufo.tasks.wording import WORDINGS

CLASSES = ("person", "red dog", "\u96c5 traffic light")  # the last one begins with bytes
BOXES = ("<box>1,24,448,896</box>", "<box>10,5,0,6</box>")
# the published models keep blanks and line breaks as they are
EXACT = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}


@pytest.fixture(
    scope="module",
    params=itertools.product(["internvl", "llava"], [{}, EXACT]),
    ids=lambda made: made[0] + "-exact" * bool(made[1]),
)
def made(request, tmp_path_factory):
    """A backbone, and a tokenizer in the layout of its published ones."""
    family, changes = request.param
    folder = tmp_path_factory.mktemp("pieces")
    model = train_pieces(folder, blank=family == "llava", **changes)
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


@pytest.mark.parametrize("count", [1, 2])
def test_what_continues_a_prompt_is_well_formed(count, made, make_tiny_task):
    backbone, tokenizer = made
    task = make_tiny_task("grounding", num_bins=896, constrained=True, max_objects=count, max_length=60)
    task = task.worded(WORDINGS[backbone.wording])
    grammar = choose_strategy(backbone, tokenizer, task).grammar
    question = task.prompt((), "person")
    asked, _ = encode_prompts(backbone, tokenizer, [question])
    for number in range(1, count + 1):
        learned, _, [row] = continue_prompts(backbone, tokenizer, [question], [";".join(BOXES[:number])])
        whole = learned[0].tolist() + row.ids[1:]
        prompt = asked[0].tolist()
        assert whole[: len(prompt)] == prompt and follows(grammar, whole[len(prompt) :])
