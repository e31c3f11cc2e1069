"""What a foreign tokenizer.json may ask for: no pattern that hangs, no text that grows without bound."""

from __future__ import annotations

import json
import time

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from ufo.hf_tokenizer import HFTokenizer, backend_from_text
from ufo.tokenizer_bounds import SLOW, check_speed, no_panic, problem_of

PUBLISHED = [
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ll)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r" ?[^(\s|[.,!?…。，、।۔،])]+",
    r" {2,}",
    r"[]a]+",
    r"\{3\}x{a}",
]
ENDLESS = [
    (r"(a+)+$", "repeated without end"),
    (r"(?:\w+\s?)*!", "repeated without end"),
    (r"(?<name>b|c+){2,}", "repeated without end"),
    (r"(?:ab|a)+$", "several ways"),
    (r"(a?){30}a{30}", "several ways"),
    (r"[ab]*[bc]*[cd]*$", "in a row"),
    (r"(a)\1", "earlier part"),
    (r"((a{20}){20}){20}", "more than 256 times"),
    (r"x{1,99999999999}", "eight digits"),
    (r"(" * 60 + ")" * 60, "50 deep"),
    (r"x" * 5000, "5000 characters"),
]


def tokenizer(pattern: str = "", replacement: str = "", writes: bool = False, **more) -> str:
    """A tokenizer.json that cuts, or writes, texts by a pattern."""
    made = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1}, unk_token="<unk>"))
    if writes:
        made.normalizer = normalizers.Replace(Regex(pattern) if pattern else " ", replacement)
    elif pattern:
        made.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    return json.dumps({**json.loads(made.to_str()), **more})


@pytest.mark.parametrize("pattern", PUBLISHED)
def test_published_patterns_are_fine(pattern):
    assert problem_of(pattern) is None
    assert backend_from_text(tokenizer(pattern)).encode("Two owls, 12 herons").ids


@pytest.mark.parametrize("pattern, why", ENDLESS)
@pytest.mark.parametrize("normalizer", [True, False])
def test_patterns_that_could_hang_are_refused(pattern, why, normalizer):
    text = json.loads(tokenizer("a", writes=normalizer))
    text["normalizer" if normalizer else "pre_tokenizer"]["pattern"] = {"Regex": pattern}
    before = time.monotonic()
    with pytest.raises(ValueError, match=why) as error:
        HFTokenizer.from_content(json.dumps(text), start="<unk>")
    assert len(str(error.value).splitlines()) == 1 and time.monotonic() - before < 1


def test_texts_do_not_grow_without_bound():
    with pytest.raises(ValueError, match="times longer"):
        backend_from_text(tokenizer(writes=True, replacement="x" * 5000))
    step = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    with pytest.raises(ValueError, match="times longer"):
        backend_from_text(tokenizer(**{"normalizer": {"type": "Sequence", "normalizers": [step] * 40}}))
    padded = tokenizer(
        padding={
            **{"strategy": {"Fixed": 10**9}, "direction": "Right", "pad_to_multiple_of": None},
            **{"pad_id": 0, "pad_type_id": 0, "pad_token": "x"},
        },
        truncation={"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0},
    )
    assert len(backend_from_text(padded).encode("a b").ids) == len(
        backend_from_text(tokenizer()).encode("a b").ids
    )


def test_what_is_no_tokenizer():
    for text in ("[]", "[" * 100_000, "7"):
        with pytest.raises(ValueError):
            backend_from_text(text)


def test_a_tokenizer_that_is_slow_or_gives_up():
    class Slow:
        def encode(self, text, add_special_tokens):
            start = time.thread_time()
            while time.thread_time() - start < 1.1:
                pass

    class PanicException(BaseException):
        pass

    with pytest.raises(ValueError, match="too long"):
        check_speed(Slow())
    with pytest.raises(ValueError) as error, no_panic():
        raise PanicException("retry-limit-in-match over")
    assert str(error.value) == SLOW
    with pytest.raises(KeyboardInterrupt), no_panic():
        raise KeyboardInterrupt
