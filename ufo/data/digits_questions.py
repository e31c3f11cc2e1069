"""Questions about digit scenes: texts that need reasoning, and conversations with short answers.

All follow from the objects by fixed rules, so that all can be checked. Lower case; sentences end with "?".
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ufo.data.digits_scene import CLASSES, COLORS
from ufo.data.digits_text import Thing, relation, resolve

MAX_REASONING = 3  # texts per object
MAX_TURNS = 3  # questions per scene
_RELATIONS = ("left of", "right of", "above", "below")
_PARITIES = ("even", "odd")


def value(thing: Thing) -> int:
    """The number that a digit shows."""
    return CLASSES.index(thing.name)


def meant(clue: str, things: list[Thing]) -> list[int]:
    """Indices of all objects that a clue such as "the largest even number" fits; by value, never by size."""
    words = clue.split()
    values = np.array([value(thing) for thing in things])
    if "plus" in words or "minus" in words:
        a, b = (CLASSES.index(word) for word in words if word in CLASSES)
        wanted = values == (a + b if "plus" in words else a - b)
    elif "after" in words or "before" in words:
        wanted = values == CLASSES.index(words[-1]) + (1 if "after" in words else -1)
    else:
        wanted = values % 2 == ("odd" in words)
        if wanted.any() and ("largest" in words or "smallest" in words):
            best = values[wanted].max() if "largest" in words else values[wanted].min()
            wanted &= values == best
        elif wanted.sum() > 1:  # "the only even number"
            wanted[:] = False
    return np.flatnonzero(wanted).tolist()


def _clues(thing: Thing, things: list[Thing], rng: np.random.Generator) -> list[str]:
    """Clues that fit this object and no other."""
    number = value(thing)
    first = int(rng.integers(number + 1))
    clues = [f"the digit that equals {CLASSES[first]} plus {CLASSES[number - first]}"]
    if number < 9:
        taken = int(rng.integers(1, 10 - number))
        clues += [f"the digit that equals {CLASSES[number + taken]} minus {CLASSES[taken]}"]
        clues += [f"the number that comes before {CLASSES[number + 1]}"]
    if number:
        clues += [f"the number that comes after {CLASSES[number - 1]}"]
    parity = _PARITIES[number % 2]
    several = sum(value(other) % 2 == number % 2 for other in things) > 1
    clues += [f"the {word} {parity} number" for word in (("largest", "smallest") if several else ("only",))]
    own = next(i for i, other in enumerate(things) if other is thing)
    return [clue for clue in clues if meant(clue, things) == [own]]


def _as_question(clue: str) -> str:
    if " that " in clue:  # "the digit that equals ..." -> "which digit equals ...?"
        return "which " + clue.removeprefix("the ").replace(" that ", " ") + "?"
    return f"which is {clue}?"


def reasoning(things: list[Thing], rng: np.random.Generator) -> list[list[tuple[str, bool]]]:
    """For each object up to three texts that mean it alone, and whether each is a sentence or a phrase."""
    found = []
    for thing in things:
        clues = _clues(thing, things, rng)
        picked = rng.permutation(len(clues))[:MAX_REASONING]
        sentences = rng.random(len(picked)) < 0.5
        found.append(
            [
                (_as_question(clues[k]) if s else clues[k], bool(s))
                for k, s in zip(picked, sentences, strict=True)
            ]
        )
    return found


Turn = tuple[str, str]  # question, answer


def _counting(things: list[Thing], size: int, rng: np.random.Generator) -> Turn:
    kind = ("", "even ", "odd ")[rng.integers(3)]
    count = sum(not kind or _PARITIES[value(thing) % 2] == kind.strip() for thing in things)
    return f"how many {kind}digits are there?", CLASSES[count]


def _presence(things: list[Thing], size: int, rng: np.random.Generator) -> Turn:
    there = bool(rng.random() < 0.5)
    if rng.random() < 0.5:
        seen = {thing.color for thing in things}
        color = str(rng.choice([c for c in COLORS if (c in seen) == there]))
        article = "an" if color[0] in "aeiou" else "a"
        return f"is there {article} {color} digit?", "yes" if there else "no"
    seen = {thing.name for thing in things}
    name = str(rng.choice([c for c in CLASSES if (c in seen) == there]))
    return f"is there {'an' if name[0] in 'aeiou' else 'a'} {name}?", "yes" if there else "no"


def _color(things: list[Thing], size: int, rng: np.random.Generator) -> Turn | None:
    alone = [t for t in things if len(resolve(f"the {t.name}", things, size)) == 1]
    if not alone:
        return None
    thing = alone[rng.integers(len(alone))]
    return f"what color is the {thing.name}?", thing.color


def _name(things: list[Thing], size: int, rng: np.random.Generator) -> Turn | None:
    clues = [f"the {thing.color} digit" for thing in things]
    clues += [
        f"the {word} digit" for word in ("largest", "smallest", "leftmost", "rightmost", "top", "bottom")
    ]
    resolved = [(clue, resolve(clue, things, size)) for clue in dict.fromkeys(clues)]
    told = [(clue, fitting[0]) for clue, fitting in resolved if len(fitting) == 1]
    if not told:
        return None
    clue, index = told[rng.integers(len(told))]
    return f"what is {clue}?", things[index].name


def _beside(things: list[Thing], size: int, rng: np.random.Generator) -> Turn | None:
    told = []
    for other in things:
        if len(resolve(f"the {other.color} {other.name}", things, size)) == 1:
            for where in _RELATIONS:
                there = [t for t in things if t is not other and relation(t, other) == where]
                if len(there) == 1:
                    told.append((f"which digit is {where} the {other.color} {other.name}?", there[0].name))
    return told[rng.integers(len(told))] if told else None


_KINDS: tuple[Callable[..., Turn | None], ...] = (_counting, _presence, _color, _name, _beside)


def conversation(things: list[Thing], size: int, rng: np.random.Generator) -> list[Turn]:
    """Up to three questions of different kinds with their answers; each stands alone."""
    made = [_KINDS[k](things, size, rng) for k in rng.permutation(len(_KINDS))]
    return [turn for turn in made if turn][:MAX_TURNS]


def question_words() -> list[str]:
    """All words of reasoning texts, questions and answers, and the question mark, sorted."""
    words = "the digit that equals plus minus number comes before after largest smallest only even odd which "
    words += "is ? how many digits are there no yes a an what color leftmost rightmost top bottom"
    return sorted({*words.split(), *CLASSES, *COLORS, *(w for r in _RELATIONS for w in r.split())})
