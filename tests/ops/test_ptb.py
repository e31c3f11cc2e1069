"""The tokenizer against recorded output of the Java program it stands for."""

import json
import time
from pathlib import Path

import pytest

from ufo.ops.ptb import ptb_tokenize, ptb_words

RECORDED = json.loads((Path(__file__).parents[1] / "metrics" / "fixtures" / "captions.json").read_text())


def recorded_pairs() -> list[tuple[str, str]]:
    pairs = [(caption["text"], caption["tokens"]) for caption in RECORDED["captions"]]
    for image in RECORDED["images"]:
        texts = [image["prediction"], *image["references"]]
        pairs += zip(texts, [image["prediction_tokens"], *image["reference_tokens"]], strict=True)
    return pairs


def test_words__equal_recorded_tokenizer():
    pairs = recorded_pairs()
    wrong = [(text, words, ptb_tokenize(text)) for text, words in pairs if ptb_tokenize(text) != words]
    assert len(pairs) > 350
    assert not wrong


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A man's hat, (red).", "a man 's hat -lrb- red -rrb-"),
        ("They don't; she can't.", "they do n't she ca n't"),
        ("Don’t “stop” – he said…", "do n't stop he said"),
        ("at 5:30pm, or 5 p.m. in the U.S.", "at 5:30 pm or 5 p.m. in the u.s."),
        ("St. Mary's on 5th Ave.", "st. mary 's on 5th ave."),
        ("a black-and-white T-shirt", "a black-and-white t-shirt"),
        ("wow!!! what?! really??", "wow !!! what ?! really ??"),
        ("'quoted' and \"quoted\" ''too''", "quoted and quoted too"),
        ("the '60s, the 1960's", "the '60s the 1960 's"),
        ("$5 and 50% & R&B", "$ 5 and 50 % & r&b"),
        ("gonna cannot", "gon na can not"),
        ("two\nlines\tof  text ", "two lines of text"),
        ("...", ""),
        ("", ""),
    ],
)
def test_words__examples(caption: str, words: str):
    assert ptb_tokenize(caption) == words


def test_words__stable_under_repetition():
    """Tokenised lower-case words without brackets and clitics tokenise to themselves."""
    text = "a black-and-white dog on 5th ave. at 5:30 with 1/2 of the u.s. team"
    assert ptb_tokenize(ptb_tokenize(text)) == ptb_tokenize(text) == text


def test_words__any_text_is_read_in_linear_time():
    for text in ("a" * 50_000, "a-" * 25_000, "a." * 25_000, "<" * 50_000, "'a" * 25_000, "\x00😀"):
        start = time.perf_counter()
        ptb_words(text)
        assert time.perf_counter() - start < 5
