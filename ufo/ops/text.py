"""How alike two texts are: short answers after the usual normalisation, sentences by common words."""

from __future__ import annotations

import re
from collections.abc import Sequence

ARTICLES = {"a", "an", "the"}
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {word: str(i) for i, word in enumerate(_WORDS)}
_PUNCTUATION = re.compile(r"[^\w\s.]|_|(?<!\d)\.|\.(?!\d)")


def normalize_answer(text: str) -> str:
    """Lower case, number words up to ten as digits, no articles, no punctuation but decimal points."""
    words = _PUNCTUATION.sub(" ", text.lower().replace("'", "")).split()
    return " ".join(NUMBERS.get(word, word) for word in words if word not in ARTICLES)


def similarity(answer: str, reference: str, threshold: float = 0.5) -> float:
    """1 - edit distance / length of the longer text, 0 below `threshold`; of normalised texts."""
    a, b = normalize_answer(answer), normalize_answer(reference)
    value = 1 - _edit_distance(a, b) / max(len(a), len(b), 1)
    return value if value >= threshold else 0.0


def _edit_distance(a: str, b: str) -> int:
    """Insertions, deletions and substitutions of characters from `a` to `b`."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]


def rouge_l(text: str, references: Sequence[str], beta: float = 1.2) -> float:
    """F-measure of the longest common subsequence of words, 0..1, as pycocoevalcap has it.

    Of the best precision and the best recall that any of the references gives, not necessarily the same one.

    Args:
        text, references: words with single spaces between them (`ufo.ops.ptb.ptb_tokenize`).
        beta: weight of the recall.
    """
    words = text.split(" ")  # an empty text is one empty word, as in the original
    split = [reference.split(" ") for reference in references]
    common = [_common_subsequence(words, reference) for reference in split]
    precision = max(common) / len(words)
    recall = max(c / len(reference) for c, reference in zip(common, split, strict=True))
    if max(common) == 0:
        return 0.0
    weight = beta**2
    return (1 + weight) * precision * recall / (recall + weight * precision)


def _common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence, one row of the table at a time."""
    row = [0] * (len(b) + 1)
    for word in a:
        diagonal = 0
        for j, other in enumerate(b, start=1):
            above = row[j]
            row[j] = diagonal + 1 if word == other else max(above, row[j - 1])
            diagonal = above
    return row[-1]


def counted_tokens(text: str) -> str:
    """Special tokens in a row as one with their number: `<MASK> x 16`."""
    return re.sub(r"(<\w+>)(?:\s*\1)+", lambda run: f"{run[1]} x {run[0].count(run[1])}", text)
