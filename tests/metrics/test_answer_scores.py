from __future__ import annotations

import pytest

from ufo.metrics.answers import AnswerAccuracy
from ufo.ops.text import normalize_answer, similarity


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("The  Red one.", "red 1"),
        ("It's 3.5, not 4!", "its 3.5 not 4"),
        ("a; an; the", ""),
        ("t-shirt", "t shirt"),
        ("7.", "7"),
    ],
)
def test_normalised(text, plain):
    assert normalize_answer(text) == plain
    assert normalize_answer(plain) == plain


def test_similarity_is_one_for_equal_texts_and_zero_for_distant_ones():
    assert similarity("Seven", "seven.") == 1
    assert similarity("purple", "purpel") == pytest.approx(4 / 6)
    assert similarity("purple", "red") == 0
    assert similarity("", "") == 1


def test_the_best_reference_counts():
    metric = AnswerAccuracy()
    metric.update("three", ["three"])
    metric.update("Three", ["2", "3"])
    metric.update("purpel", ["purple", "red"])
    metric.update("", ["blue"])
    found = {k: float(v) for k, v in metric.compute().items()}
    assert found == pytest.approx({"exact_match": 0.25, "accuracy": 0.5, "ANLS": (1 + 1 + 4 / 6) / 4})
    with pytest.raises(ValueError, match="no reference answers"):
        metric.update("x", [])
