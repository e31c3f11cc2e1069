"""Questions about digit scenes: every text means one object, every answer is true, checked by other code."""

from __future__ import annotations

import re

import numpy as np
import pytest

from ufo.data.digits_questions import conversation, question_words, reasoning
from ufo.data.digits_scene import CLASSES, COLORS
from ufo.data.digits_text import Thing

SIZE = 112
VALUE = {name: i for i, name in enumerate(CLASSES)}


def scene(seed: int) -> list[Thing]:
    rng = np.random.default_rng(seed)
    things = []
    for _ in range(rng.integers(1, 6)):
        x, y, w, h = rng.integers(1, 80), rng.integers(1, 80), rng.integers(8, 30), rng.integers(10, 30)
        color, name = str(rng.choice(list(COLORS))), str(rng.choice(CLASSES))
        things.append(Thing(name, color, (float(x), float(y), float(w), float(h)), int(w * h // 2)))
    return things


SCENES = [scene(seed) for seed in range(300)]


def fits(text: str, thing: Thing, things: list[Thing]) -> bool:
    """Whether a reasoning text is true of `thing`."""
    numbers = [VALUE[w] for w in re.findall(r"\w+", text) if w in VALUE]
    value, values = VALUE[thing.name], [VALUE[t.name] for t in things]
    if "equals" in text:
        return value == (numbers[0] + numbers[1] if "plus" in text else numbers[0] - numbers[1])
    if "comes" in text:
        return value - numbers[0] == (1 if "after" in text else -1)
    alike = [v for v in values if v % 2 == ("odd" in text)]
    if value not in alike:
        return False
    if "only" in text:
        return len(alike) == 1
    return value == (max(alike) if "largest" in text else min(alike))


def test_each_reasoning_text_means_one_object():
    seen, kinds = set(), set()
    for i, things in enumerate(SCENES):
        texts = reasoning(things, np.random.default_rng(i))
        assert len(texts) == len(things)
        for thing, told in zip(things, texts, strict=True):
            assert len(told) <= 3
            for text, sentence in told:
                assert [t is thing for t in things] == [fits(text, t, things) for t in things], text
                assert text.endswith("?") == sentence
                seen |= set(re.findall(r"\w+|\?", text))
                kinds.add(sentence)
    assert kinds == {True, False}
    assert {"plus", "minus", "after", "before", "largest", "smallest", "only", "even", "odd"} <= seen
    assert seen <= set(question_words())


def true(question: str, answer: str, things: list[Thing]) -> bool:
    """Whether the answer is right."""
    words = re.findall(r"\w+", question)
    colors, names = [w for w in words if w in COLORS], [w for w in words if w in CLASSES]
    if question.startswith("how many"):
        parity = {"even": (0,), "odd": (1,)}.get(words[2], (0, 1))
        return VALUE[answer] == sum(VALUE[t.name] % 2 in parity for t in things)
    if question.startswith("is there"):
        found = any(t.color in colors if colors else t.name in names for t in things)
        return answer == ("yes" if found else "no")
    if question.startswith("what color"):
        return [t.color for t in things if t.name in names] == [answer]
    if question.startswith("which digit is"):
        (other,) = [t for t in things if t.name in names and t.color in colors]
        dx, dy = other.center[0] - np.array([t.center for t in things]).T[0], 0
        dy = other.center[1] - np.array([t.center for t in things]).T[1]
        beside = {"left": dx > 0, "right": dx < 0, "above": dy > 0, "below": dy < 0}[words[3]]
        flat = np.abs(dx) >= np.abs(dy)
        there = beside & (flat if words[3] in ("left", "right") else ~flat)
        return [t.name for t, b in zip(things, there, strict=True) if b and t is not other] == [answer]
    keys = {
        "leftmost": lambda t: t.center[0],
        "rightmost": lambda t: -t.center[0],
        "top": lambda t: t.center[1],
        "bottom": lambda t: -t.center[1],
        "largest": lambda t: -t.area,
        "smallest": lambda t: t.area,
    }
    if colors:
        return [t.name for t in things if t.color in colors] == [answer]
    return min(things, key=keys[words[3]]).name == answer


def test_each_answer_is_true():
    seen, starts = set(), set()
    for i, things in enumerate(SCENES):
        turns = conversation(things, SIZE, np.random.default_rng(i))
        assert 1 <= len(turns) <= 3 and len({question for question, _ in turns}) == len(turns)
        for question, answer in turns:
            assert true(question, answer, things), (question, answer, things)
            seen |= set(re.findall(r"\w+|\?", f"{question} {answer}"))
            starts.add(" ".join(question.split()[:2]))
    assert starts == {"how many", "is there", "what color", "what is", "which digit"}
    assert seen <= set(question_words())


@pytest.mark.parametrize("make", [reasoning, lambda things, rng: conversation(things, SIZE, rng)])
def test_texts_follow_from_the_generator(make):
    told = [make(SCENES[3], np.random.default_rng(seed)) for seed in (0, 0, 1, 2, 3)]
    assert told[0] == told[1]
    assert any(t != told[0] for t in told[2:])


def test_words_are_sorted_and_all_said():
    said = set()
    for i, things in enumerate(SCENES):
        texts = [t for told in reasoning(things, np.random.default_rng(i)) for t, _ in told]
        texts += [t for turn in conversation(things, SIZE, np.random.default_rng(i)) for t in turn]
        said |= set(re.findall(r"\w+|\?", " ".join(texts)))
    assert question_words() == sorted(question_words())
    assert said == set(question_words())
