"""Tokenizers of language models: layouts, offsets, what is stored with a model, errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ufo.backbones.llava import SYSTEM
from ufo.data.digits_questions import question_words
from ufo.data.digits_text import vocabulary
from ufo.hf_tokenizer import HFTokenizer, build_tokenizer
from ufo.tasks.wording import INTERNVL, LLAVA

VOCAB = Path(__file__).parents[1] / "conf" / "vocab"
FILES = {"internvl_digits": {"end": "<|im_end|>"}, "llava_digits": {"pad": "<pad>"}}
SPECIAL = ["<unk>", "<s>", "</s>", "<end>"]


@pytest.fixture
def tokenizer():
    return HFTokenizer(build_tokenizer(["a", "red", "owl", ",", "."], SPECIAL), end="<end>")


@pytest.mark.parametrize("name", FILES)
def test_stored_tokenizers_write_all_of_the_digits(name):
    words = HFTokenizer.from_pretrained(VOCAB / name, **FILES[name])
    wording = LLAVA if name.startswith("llava") else INTERNVL
    texts = [*vocabulary(), *question_words(), *map(str, range(225)), SYSTEM, wording.background]
    for question in wording.questions.values():
        texts += [t.replace("{", "").replace("}", "") for t in (question.asked, *question.trained)]
    assert [t for t in texts if not words.can_write(t)] == []
    assert all(len(ids) == 3 for ids in words.encode(list(map(str, range(225)))))  # a number is one token
    for token in ("<MASK>", "<box>", "</box>"):
        assert words.encode([token])[0][1:-1] == [words.token_id(token)]


def test_answers_and_prompts(tokenizer):
    start, end = tokenizer.start_id, tokenizer.end_id
    [short, long] = tokenizer.encode(["red owl", "red " * 9], max_length=4)
    assert [short[0], short[-1], len(short)] == [start, end, 4]
    assert [long[0], long[-1], len(long)] == [start, end, 4]
    ids, mask = tokenizer.encode_prompts(["red", "red owl ."])
    assert ids[:, 0].eq(start).all() and mask.tolist() == [[True, True, False, False], [True] * 4]
    assert tokenizer.encode_prompts(["red", "red"])[0].shape[0] == 1


def test_segments_are_cut_as_one_text(tokenizer):
    [row] = tokenizer.encode_segments([[("a re", False), ("d owl", True), ("<end>a", False)]])
    # "red" begins in the first segment
    assert [tokenizer.vocab[i] for i in row.ids] == ["<s>", "a", "red", "owl", "<end>", "a"]
    assert row.supervised == [False, False, False, True, False, False]


def test_decode_stops_at_the_end(tokenizer):
    [ids] = tokenizer.encode(["red,<MASK><MASK>"])
    [text] = tokenizer.decode([[*ids, *ids]])
    assert text.replace(" ", "") == "red,<MASK><MASK>"


def test_too_long_a_prompt():
    words = HFTokenizer(build_tokenizer(["a"], SPECIAL), end="<end>", max_prompt_length=8)
    with pytest.raises(ValueError, match="at most 8"):
        words.encode_prompts(["a " * 9])


def test_missing_tokens(tokenizer):
    with pytest.raises(ValueError, match="lacks <nothing>"):
        HFTokenizer(build_tokenizer(["a"], SPECIAL), end="<nothing>")
    with pytest.raises(ValueError, match="no token <img>"):
        tokenizer.token_id("<img>")


def test_description_builds_the_same(tokenizer):
    again = HFTokenizer.from_content(**tokenizer.describe()["tokenizer"])
    assert again.vocab == tokenizer.vocab and again.settings == tokenizer.settings


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither"):
        HFTokenizer.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="download the model's tokenizer"):
        HFTokenizer.from_pretrained("nobody/nothing")


def test_sentencepiece(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    text = tmp_path / "text.txt"
    text.write_text("the red owl sat on the red wall .\n" * 50 + "an owl is red\n" * 50)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(tmp_path / "tokenizer"), vocab_size=40, model_type="bpe",
        pad_id=-1, minloglevel=2,
    )  # fmt: skip
    words = HFTokenizer.from_pretrained(tmp_path)
    model = sentencepiece.SentencePieceProcessor(str(tmp_path / "tokenizer.model"))
    plain = "the red owl is on the wall"
    assert words.encode([plain])[0][1:-1] == model.encode(plain)
    # behind an added token no space is put before the first word
    [row] = words.encode_segments([[("the<MASK>owl", False), (" red", True)]])
    at = row.ids.index(words.mask_id)
    assert "".join(words.vocab[i] for i in row.ids[at + 1 :]) == "owl▁red"
    assert next(words.vocab[i] for i, said in zip(*row, strict=True) if said).startswith("▁")
    assert words.decode(words.encode([plain, "red<MASK>"])) == [plain, "red<MASK>"]
    again = HFTokenizer.from_content(**words.describe()["tokenizer"])
    assert again.encode([plain]) == words.encode([plain])


def test_padding(tokenizer):
    assert torch.equal(tokenizer.pad([[5], []]), torch.tensor([[5], [tokenizer.pad_id]]))
