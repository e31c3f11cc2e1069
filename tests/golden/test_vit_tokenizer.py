"""The tokenizer against recorded ids: special tokens, prompts, answers, every number a box may hold."""

from __future__ import annotations

import pytest
from vit_recordings import TASKS


@pytest.fixture(scope="module")
def recorded(recordings):
    return recordings.texts


@pytest.fixture(scope="module")
def tokenizer(recordings):
    return recordings.tokenizer


def padded(tokenizer, texts, max_length=None) -> list[list[int]]:
    return tokenizer.pad(tokenizer.encode(texts, max_length)).tolist()


def answer_groups(recorded) -> list[dict]:
    groups = [group for name, group in recorded.items() if name.startswith("translate_")]
    assert groups
    return groups


def test_special_tokens(recorded, tokenizer):
    special = recorded["special"]
    assert len(tokenizer) == special["len"]
    assert (tokenizer.start_id, tokenizer.end_id) == (special["cls"], special["sep"])
    assert tokenizer.pad_id == special["pad"]
    # all of them vanish from decoded text, and nothing else does
    for number in range(special["bos"] - 2, special["len"]):
        vanishes = tokenizer.decode([[number]]) == [""]
        assert vanishes == (number in special["all_special_ids"])
    assert tokenizer.decode([[i] for i in special["all_special_ids"]]) == [""] * len(
        special["all_special_ids"]
    )


def test_appended_tokens(recorded, tokenizer):
    """`[DEC] (...) -> id`: the order in which tokens were appended decides their ids."""
    for line in recorded["special"]["order"]:
        token, number = line.split()[0], int(line.split()[-1])
        [ids] = tokenizer.encode([token])
        assert ids[1:-1] == [number]
    assert tokenizer.mask_id == number


@pytest.mark.parametrize("name", sorted(TASKS))
def test_prompts(recorded, tokenizer, name):
    group = recorded["prompts"][name]
    assert padded(tokenizer, group["text"]) == group["input_ids"]
    ids, visible = (x.expand(len(group["text"]), -1) for x in tokenizer.encode_prompts(group["text"]))
    assert ids.shape[1] == group["n_ids"] - 1
    assert ids.tolist() == [row[:-1] for row in group["input_ids"]]
    for row, mask, seen in zip(group["input_ids"], group["attention_mask"], visible.tolist(), strict=True):
        end = tokenizer.end_id
        assert seen == [bool(m) and i != end for i, m in zip(row[:-1], mask[:-1], strict=True)]


def test_answers(recorded, tokenizer):
    for group in answer_groups(recorded):
        assert padded(tokenizer, group["texts"]) == group["input_ids"]
        lengths = [len(row) for row in tokenizer.encode(group["texts"])]
        assert lengths == [sum(mask) for mask in group["attention_mask"]]
        assert tokenizer.decode(group["input_ids"]) == group["decoded"]


def test_caption(recorded, tokenizer):
    group = recorded["caption_encode"]
    [ids] = tokenizer.encode([group["text"]], len(group["input_ids"]))
    assert ids == group["input_ids"][: sum(group["attention_mask"])]


def test_numbers(recorded, tokenizer):
    numbers = recorded["numbers"]
    ids = [row[1:-1] for row in tokenizer.encode(list(numbers))]
    assert ids == list(numbers.values())
    assert max(map(len, ids)) == recorded["number_max_tokens"]
