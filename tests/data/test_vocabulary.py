"""The general vocabulary, and what own classes and texts add to one."""

from __future__ import annotations

from pathlib import Path

import pytest

from ufo.data.digits import vocabulary as digit_words
from ufo.data.digits_scene import VARIANTS
from ufo.data.shapes_scene import TEXTURES
from ufo.data.vocabulary import common_words, general, main, missing_words, spelled, tokens_per_name, words_of
from ufo.tokenizer import UFOTokenizer

VOCAB = Path(__file__).parents[2] / "conf" / "vocab"


@pytest.fixture(scope="module")
def tokenizer() -> UFOTokenizer:
    return UFOTokenizer.from_pretrained(VOCAB / "general.txt")


def test_a_few_thousand_tokens_each_once():
    words = (VOCAB / "general.txt").read_text().splitlines()
    assert 3000 < len(words) == len(set(words)) < 6000


@pytest.mark.parametrize("path", sorted(VOCAB.glob("*_classes.txt")), ids=lambda path: path.stem)
def test_words_of_public_classes_are_tokens(tokenizer, path):
    names = path.read_text().splitlines()
    for name, tokens in zip(names, tokens_per_name(tokenizer, names), strict=True):
        assert tokens == len(words_of(name))


def test_words_of_generated_scenes_are_tokens(tokenizer):
    shapes = VARIANTS["shapes"]
    for word in (*digit_words(), *shapes.classes, *shapes.colors, *TEXTURES, shapes.noun):
        assert tokens_per_name(tokenizer, [word]) == [1], word


def test_numbers_are_tokens_and_nothing_is_unknown(tokenizer):
    assert tokens_per_name(tokenizer, [str(n) for n in range(449)]) == [1] * 449
    for text in ("zonotrichia leucophrys", "Qx7~{}", "walked slowly"):
        assert tokenizer.can_write(text)
        assert tokenizer.decode(tokenizer.encode([text]))[0].replace(" ", "") == text.lower().replace(" ", "")


def test_regular_forms_are_left_to_pieces():
    assert common_words(["bird birds walk walking walked walker quick quickly lens It's"]) == [
        "bird",
        "lens",
        "quick",
        "walk",
    ]


def test_the_order_of_lists_does_not_matter():
    one = general(["bird tree", "walk"], ["great tit", "Owl"])
    assert one == general(["walk", "tree bird"], ["Owl", "great tit"])
    assert {"bird", "tit", "owl", "448", "##s"} <= set(one)


def test_missing_words_of_classes_come_all_and_those_of_texts_by_number():
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "owl"]
    texts = ["a heron", "a heron and an egret", "a stork", "a stork", "the Heron"]
    assert missing_words(vocab, ["Owl", "great tit"], texts, at_least=2, most=9) == [
        "great",
        "tit",
        "heron",
        "stork",
    ]
    assert missing_words(vocab, [], texts, at_least=1, most=1) == ["heron"]
    assert missing_words(vocab, ["heron"], ["heron heron"]) == ["heron"]


NAMES = (
    "K\u00e4fer",
    "\u65e5\u672c",
    "Stra\u00dfe",
    "M\u00e4hdrescher 7",
    "\ud55c\uad6d",
    "\u30ab\u30d6\u30c8\u30e0\u30b7",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_word_is_one_token_once_it_is_added(tokenizer, name):
    """Accents are stripped and Chinese characters divided before a word is looked up."""
    words = missing_words(tokenizer.vocab, [name])
    larger = UFOTokenizer([*tokenizer.vocab, *words])
    assert spelled(tokenizer, words) == words != []
    assert spelled(larger, words_of(name)) == [] and missing_words(larger.vocab, [name]) == []
    assert tokens_per_name(larger, [name]) == [len(words_of(name))] and larger.can_write(name)


def test_an_unknown_word_is_no_cheap_one(tokenizer):
    """It would be one token, `[UNK]`; a word beyond the tokenizer's longest stays it."""
    assert tokens_per_name(tokenizer, ["Stra\u00dfe", "owl"]) == [None, 1]
    assert spelled(UFOTokenizer([*tokenizer.vocab, "a" * 101]), ["a" * 101, "owl"]) == ["a" * 101]


def test_the_command_writes_it(tmp_path):
    (tmp_path / "words").write_text("bird\nbirds\n")
    (tmp_path / "names").write_text("traffic light\n")
    main([str(tmp_path / "words"), "--names", str(tmp_path / "names"), "--out", str(tmp_path / "vocab.txt")])
    tokenizer = UFOTokenizer.from_pretrained(tmp_path / "vocab.txt")
    assert tokens_per_name(tokenizer, ["traffic light", "bird", "birds"]) == [2, 1, 2]
