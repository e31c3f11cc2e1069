"""The tokenizer with a small vocabulary: what answers and prompts rely on."""

from __future__ import annotations

import pytest
import torch

from ufo.hf_tokenizer import HFTokenizer, build_tokenizer
from ufo.tokenizer import Tokenizer, UFOTokenizer, build_vocab

NUMBERS = 20


@pytest.fixture(scope="module")
def small() -> UFOTokenizer:
    return UFOTokenizer(build_vocab(["owl", "red", "cat"], NUMBERS))


def test_vocabulary_holds_each_entry_once_and_every_number():
    vocab = build_vocab(["owl", "7", "a"], NUMBERS)
    assert len(vocab) == len(set(vocab))
    assert {str(n) for n in range(NUMBERS + 1)} <= set(vocab)


def test_three_tokens_are_appended_with_mask_last(small):
    assert len(small) == len(small.vocab) + 3
    assert small.mask_id == len(small) - 1
    with pytest.raises(ValueError, match=r"lacks \[CLS\], \[SEP\]"):
        UFOTokenizer(["[PAD]", "[UNK]", "owl"])


def test_both_tokenizers_offer_what_the_seam_asks_for(small):
    backend = build_tokenizer(small.vocab, ["<unk>", "<s>", "</s>", "<MASK>"])
    asked = [*Tokenizer.__annotations__, *(name for name in vars(Tokenizer) if not name.startswith("_"))]
    assert {"mask_id", "encode", "encode_segments", "token_id", "vocab"} <= set(asked)
    for words in (small, HFTokenizer(backend)):
        assert [name for name in asked if not hasattr(words, name)] == []
        assert words.token_id(words.end) == words.end_id
        with pytest.raises(ValueError, match="no token <lynx>"):
            words.token_id("<lynx>")


def test_segments_are_cut_as_one_text(small):
    [row] = small.encode_segments([[("red o", False), ("wl", True), (" cat", True)]])
    assert row.ids == small.encode(["red owl cat"])[0][:-1]
    assert row.supervised == [False, False, False, True]  # a token belongs to where it begins
    ids, mask = small.pad_prompts([row.ids, row.ids[:2]])
    assert ids.shape == (2, 4) and mask.sum(1).tolist() == [4, 2]
    with pytest.raises(ValueError, match="a prompt has 9 tokens and the model reads at most 8"):
        UFOTokenizer(small.vocab, max_prompt_length=8).pad_prompts([[1] * 9])


def test_a_number_is_one_token(small):
    ids = small.encode([f"owl,{n},{NUMBERS - n}" for n in range(NUMBERS + 1)])
    assert {len(row) for row in ids} == {7}  # [CLS] owl , n , m [SEP]


def test_answers_survive_encoding_and_decoding(small):
    texts = ["red cat,1,20,3,4", "background", "Owl", "", "unknown-word/7"]
    decoded = small.decode(small.encode(texts))
    assert [t.replace(" ", "") for t in decoded] == [t.lower().replace(" ", "") for t in texts]
    assert decoded[0] == "red cat, 1, 20, 3, 4"  # no blank before a comma: fields split cleanly


def test_mask_tokens_stay_upper_case_and_count(small):
    text = "owl," + 4 * "<MASK>"
    [ids] = small.encode([text])
    assert ids.count(small.mask_id) == 4
    assert small.encode([text.lower()]) == [ids]
    [decoded] = small.decode([ids])
    assert decoded.count("<MASK>") == 4 and decoded.startswith("owl,")


def test_nothing_is_out_of_vocabulary(small):
    printable = "".join(chr(c) for c in range(33, 127))
    [ids] = small.encode([printable + " Zebra crossing"])
    assert small.vocab.index("[UNK]") not in ids


def test_cutting_keeps_the_end(small):
    [ids] = small.encode(["a b c d e f g h"], max_length=5)
    assert len(ids) == 5
    assert ids[0] == small.start_id and ids[-1] == small.end_id
    [short] = small.encode(["a b"], max_length=5)
    assert short == [small.start_id, *small.encode(["a b"])[0][1:-1], small.end_id]


def test_padding(small):
    rows = [[1, 2, 3], [], [4]]
    assert small.pad(rows).tolist() == [[1, 2, 3], [0, 0, 0], [4, 0, 0]]
    assert small.pad(rows, 4).shape == (3, 4)
    assert small.pad([]).shape == (0, 0)
    assert small.pad([]).dtype == torch.int64


def test_prompts_show_everything_but_ends_and_padding(small):
    ids, visible = small.encode_prompts(["red owl", "a"])
    assert ids.tolist()[0] == small.encode(["red owl"])[0][:-1]
    assert visible.tolist() == [[True, True, True], [True, True, False]]
    assert ids[1, 2] == small.end_id


def test_equal_prompts_become_one_row(small):
    ids, visible = small.encode_prompts(["red owl"] * 5)
    assert ids.shape == visible.shape == (1, 3)
    mixed, _ = small.encode_prompts(["a", "b", "a"])
    assert torch.equal(mixed[0], mixed[2]) and not torch.equal(mixed[0], mixed[1])


def test_prompts_are_cut_to_the_positions_there_are():
    short = UFOTokenizer(build_vocab([], 1), max_prompt_length=8)
    ids, visible = short.encode_prompts(["a " * 50])
    assert ids.shape == (1, 7) and visible.all()


def test_saving_and_reading(small, tmp_path):
    small.save(tmp_path)
    for where in (tmp_path, tmp_path / "vocab.txt"):
        again = UFOTokenizer.from_pretrained(where)
        assert again.vocab == small.vocab
        assert again.encode(["red cat,3"]) == small.encode(["red cat,3"])


def test_a_missing_vocabulary_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="no vocabulary"):
        UFOTokenizer.from_pretrained(tmp_path / "nowhere")
